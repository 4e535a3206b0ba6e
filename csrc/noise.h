// White Gaussian noise on packed tokens at a signal-to-noise ratio per sample.
#pragma once

#include <cstdint>

namespace lwm {

// For each sample: sigma^2 = mean(x^2) / 10^(snr_db / 10) over all values but the CLS row; each of these
// values gets its own N(0, sigma^2). For v1.0 that is the release's complex noise (power mean |h|^2, half of
// it in each part); for v1.1 it is the release's real noise, padding included.
// The draw depends on (seed, epoch, sample_id) and the place within the sample alone.
// Throws std::invalid_argument for cu_seqlens that leave tokens [num_tokens, patch_len].
void add_noise(float* tokens, std::int64_t num_tokens, std::int64_t patch_len,
               const std::int32_t* cu_seqlens, std::int64_t batch, const float* snr_db,
               const std::int64_t* sample_id, std::uint64_t seed, std::uint32_t epoch, int num_threads);

}  // namespace lwm
