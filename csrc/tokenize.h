// Channels to tokens and back, for LWM v1.0 and v1.1 ("LWM v1.0 / v1.1 release").
#pragma once

#include "packing.h"

namespace lwm {

// A value per sample, or one for all.
struct PerSample {
    const float* values;
    bool one_for_all;

    const float* row(std::int64_t sample, std::int64_t length) const {
        return one_for_all ? values : values + sample * length;
    }
};

// Writes, for each sample, the CLS row and then its patches into tokens [total_tokens, patch_len].
// csi: num_elements complex values as float pairs. scale: one float, cls: one row, each per PerSample.
// All arguments are checked; throws std::invalid_argument.
void tokenize(const float* csi, std::int64_t num_elements, const Packing& packing, const PerSample& scale,
              const PerSample& cls, float* tokens, std::int64_t num_tokens, TokenVersion version,
              int num_threads);

// One sample, from its csi to its rows, without checks.
void tokenize_sample(const float* csi, const Packing& packing, std::int64_t sample, const PerSample& scale,
                     const PerSample& cls, float* rows, TokenVersion version);

// The inverse: skips the CLS row, drops padding and divides by the scale.
void detokenize(const float* tokens, std::int64_t num_tokens, const Packing& packing, const PerSample& scale,
                float* csi, std::int64_t num_elements, TokenVersion version, int num_threads);

}  // namespace lwm
