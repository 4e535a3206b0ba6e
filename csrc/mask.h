// Masked channel modelling: which tokens are hidden and how, drawn per sample from counters, and applied.
#pragma once

#include <cstdint>
#include <vector>

#include "packing.h"

namespace lwm {

constexpr float kMaskValue = 0.1f;
constexpr std::uint8_t kActionNone = 0, kActionMask = 1, kActionRandom = 2, kActionKept = 3;

// The plan of a packed batch. The pointers are the caller's buffers.
struct MaskPlan {
    std::uint8_t* action;           // [num_tokens]
    std::int32_t* masked_index;     // [mask_cu[batch]], packed rows
    const std::int32_t* mask_cu;    // [batch + 1]
    const float* random;            // [mask_cu[batch], patch_len] random patches, nullptr: drawn from counters
    const std::int64_t* sample_id;  // [batch]
    std::uint64_t seed;
    std::uint32_t epoch;
};

// Work space of one thread, grown when a longer sample comes.
struct MaskWork {
    std::vector<std::uint32_t> words;
    std::vector<std::int32_t> order;
};

// mask_cu runs from 0 to num_masked, asks no sample for more tokens than it has (v1.0: for pairs), and
// no sample is too long for its streams of random numbers. Throws std::invalid_argument.
void check_mask_counts(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens,
                       std::int64_t batch, std::int64_t num_tokens, TokenVersion version);

// masked_index lies among its own sample's tokens, CLS excluded. Throws std::invalid_argument.
void check_mask_rows(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t batch);

// One sample's actions and masked rows, from streams MASK_POSITIONS and ACTIONS.
// Positions: a partial Fisher-Yates shuffle of the patches (v1.0: of the real half; the imaginary
// counterparts follow in the same order). A number below n is the high half of word * n; words whose low half
// is below 2^32 mod n are passed over, so that no position is likelier than another.
// Actions: entry i of the list takes word i; u < 0.1 a random patch, u < 0.9 MASK, else kept.
void draw_sample_mask(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t sample,
                      TokenVersion version, MaskWork& work);

// Saves the sample's masked rows in `targets` [mask_cu[batch], patch_len] and overwrites them in
// `tokens` as their action says. A random patch of token t: words t * patch_len + feature of stream RANDOM_PATCHES.
void apply_sample_mask(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t sample,
                       std::int64_t patch_len, float* tokens, float* targets, MaskWork& work);

// All samples of a batch, after the checks above.
void draw_mask(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens, std::int64_t batch,
               std::int64_t num_tokens, TokenVersion version, int num_threads);
void apply_mask(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens, std::int64_t batch,
                float* tokens, std::int64_t num_tokens, TokenVersion version, float* targets, int num_threads);

}  // namespace lwm
