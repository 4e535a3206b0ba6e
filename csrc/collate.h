// A training batch in one pass over its samples: gather csi (rows of arrays, or built from rays), flag what
// cannot be used, cut tokens, add noise, draw the mask, save the targets, apply the mask.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "mask.h"
#include "packing.h"
#include "tokenize.h"

namespace lwm {

// csi [count, antennas, subcarriers] as float pairs.
struct ArraySource {
    const float* csi;
    std::int64_t count, antennas, subcarriers;
};

// Rays of `users` users, user u owning rays offsets[u]..offsets[u + 1] - 1.
struct RaySource {
    const std::int64_t* offsets;
    std::int64_t users;
    Rays rays;
};

// How rays become csi, per sample.
struct SampleGeometry {
    double axis_h[3], axis_v[3];
    double bandwidth, spacing;
};

// Where each sample comes from: source s < arrays.size() is an array, the others are rays.
struct Gather {
    std::vector<ArraySource> arrays;
    std::vector<RaySource> rays;
    const std::int32_t* source;       // [batch]
    const std::int64_t* row;          // [batch], row or user of the source
    const SampleGeometry* geometry;   // [batch], read for rays alone
    const std::int64_t* panel;        // [batch, 2]: antennas per column of the array (vertical), most paths
    std::uint8_t* flags;              // [batch], see check_csi.h
};

// What is made of the csi.
struct TokenStage {
    PerSample scale, cls;
    float* tokens;        // [num_tokens, patch_len]
    const float* snr_db;  // [batch], nullptr: no noise
};

struct Batch {
    Packing packing;
    TokenVersion version;
    float* csi;  // [num_elements] float pairs; written by the gather stage, else read
    std::int64_t num_elements, num_tokens;
};

// Each stage but the batch may be nullptr. `plan` is drawn where `draw` is set, and applied where there are
// tokens and targets [num_masked, patch_len]. All arguments are checked before anything is written; throws
// std::invalid_argument. Results do not depend on num_threads.
void collate(const Batch& batch, const Gather* gather, const TokenStage* stage, const MaskPlan* plan,
             std::int64_t num_masked, bool draw, float* targets, int num_threads);

}  // namespace lwm
