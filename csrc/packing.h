// How samples of many sizes lie behind each other in one buffer, and the checks that make it safe to use.
#pragma once

#include <cstdint>

namespace lwm {

enum class TokenVersion { v1_0 = 10, v1_1 = 11 };

// Throws std::invalid_argument for anything but 10 and 11.
TokenVersion token_version(int version);

inline int patch_length(TokenVersion version) { return version == TokenVersion::v1_0 ? 16 : 32; }

// Patches of one sample, without CLS. v1.0: num_antennas * num_subcarriers must be a multiple of 16.
std::int64_t num_patches(TokenVersion version, std::int64_t num_antennas, std::int64_t num_subcarriers);

struct Packing {
    std::int64_t batch;
    const std::int64_t* offsets;      // [batch + 1], in complex elements
    const std::int32_t* shape;        // [batch, 2]: antennas, subcarriers
    const std::int32_t* cu_seqlens;   // [batch + 1], in tokens, CLS included

    std::int64_t antennas(std::int64_t sample) const { return shape[2 * sample]; }
    std::int64_t subcarriers(std::int64_t sample) const { return shape[2 * sample + 1]; }
};

// `bounds` [count + 1] start at 0 or later, never decrease and end inside `limit`.
// Throws std::invalid_argument that names `argument` and the place.
void check_bounds(const char* argument, const std::int64_t* bounds, std::int64_t count, std::int64_t limit,
                  const char* limit_name);
void check_bounds(const char* argument, const std::int32_t* bounds, std::int64_t count, std::int64_t limit,
                  const char* limit_name);

// Every sample lies inside `num_elements` complex values and `num_tokens` token rows, and its offsets,
// shape and cu_seqlens agree. Throws std::invalid_argument that names the sample and the remedy.
void check_packing(const Packing& packing, TokenVersion version, std::int64_t num_elements,
                   std::int64_t num_tokens);

// Samples to hand to a thread at once: about 32,768 values (a few microseconds of work).
std::int64_t samples_per_range(std::int64_t batch, std::int64_t total_values);

}  // namespace lwm
