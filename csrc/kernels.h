// The table of hot loops: one entry per operation, one table per instruction set.
//
// Included by files compiled for AVX-512: functions here are static, so that each file keeps its own copy.
#pragma once

#include <cstdint>

#include "training_kernels.h"

namespace lwm {

// One sample's place in the random sequence (see philox.h).
struct DrawKey {
    std::uint32_t seed_low, seed_high;
    std::uint32_t sample_low, sample_high;
    std::uint32_t epoch;
};

// Antenna array and frequency grid, the same for all users of a call.
struct RayGrid {
    std::int64_t num_h, num_v, num_subcarriers;
    double axis_h[3], axis_v[3];  // unit vectors of the two array directions
    double bandwidth;             // Hz
    double spacing;               // wavelengths
};

// The rays of one user, `count` values behind each pointer.
struct Rays {
    const float* power_db;
    const float* phase_deg;
    const float* delay_s;
    const float* zenith_deg;
    const float* azimuth_deg;
    std::int64_t count;
};

// Work space of rays_user for up to `max_rays` rays; see rays_scratch_* below.
struct RayScratch {
    double* doubles;
    float* floats;
};

// Columns are handled in blocks of this many floats; the work space is padded to whole blocks.
constexpr std::int64_t kRayBlock = 64;

static inline std::int64_t rays_padded_columns(const RayGrid& grid) {
    return (2 * grid.num_subcarriers + kRayBlock - 1) / kRayBlock * kRayBlock;
}

static inline std::int64_t rays_scratch_doubles(const RayGrid& grid, std::int64_t max_rays) {
    const std::int64_t num_antennas = grid.num_h * grid.num_v;
    const std::int64_t longest = num_antennas > grid.num_subcarriers ? num_antennas : grid.num_subcarriers;
    return 2 * longest + 2 * grid.num_v + 7 * max_rays;
}

static inline std::int64_t rays_scratch_floats(const RayGrid& grid, std::int64_t max_rays) {
    return 2 * max_rays * (grid.num_h * grid.num_v + rays_padded_columns(grid)) + 4 * kRayBlock;
}

struct Kernels {
    // csi: `count` complex values as float pairs.
    void (*split_complex)(const float* csi, std::int64_t count, float scale, float* real, float* imag);
    void (*join_complex)(const float* real, const float* imag, std::int64_t count, float scale, float* csi);

    // 4 x 4 patches of one sample, zero-padded at the bottom and right; paste drops the padding.
    void (*cut_patches)(const float* csi, std::int64_t num_antennas, std::int64_t num_subcarriers,
                        float scale, float* patches);
    void (*paste_patches)(const float* patches, std::int64_t num_antennas, std::int64_t num_subcarriers,
                          float scale, float* csi);

    // Adds Gaussian noise at `snr_db` below the values' own mean power.
    void (*add_noise)(float* values, std::int64_t count, float snr_db, const DrawKey& key);

    // The words of blocks first_block.. of a sample's stream: 4 * num_blocks of them, block after block.
    void (*draw_words)(const DrawKey& key, std::uint32_t stream, std::int64_t first_block,
                       std::int64_t num_blocks, std::uint32_t* words);

    // Largest |bit pattern| without sign (0: all zero; >= 0x7f800000: NaN or Inf) of `count` complex values.
    std::uint32_t (*largest_bits)(const float* csi, std::int64_t count);
    double (*sum_abs)(const float* csi, std::int64_t count);

    // One user's channel matrix; out: 2 * num_antennas * num_subcarriers floats.
    void (*rays_user)(const RayGrid& grid, const Rays& rays, const RayScratch& scratch, float* out);

    const TrainingKernels* training;
};

}  // namespace lwm
