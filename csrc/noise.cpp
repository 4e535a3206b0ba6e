#include "noise.h"

#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "packing.h"
#include "parallel.h"
#include "philox.h"

namespace lwm {

void add_noise(float* tokens, std::int64_t num_tokens, std::int64_t patch_len,
               const std::int32_t* cu_seqlens, std::int64_t batch, const float* snr_db,
               const std::int64_t* sample_id, std::uint64_t seed, std::uint32_t epoch, int num_threads) {
    check_bounds("cu_seqlens", cu_seqlens, batch, num_tokens, "tokens");
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t values = (cu_seqlens[i + 1] - cu_seqlens[i]) * patch_len;
        if (values > 4 * kMaxBlocks) {
            throw std::invalid_argument("sample " + std::to_string(i) + " has " + std::to_string(values) +
                                        " values: noise is defined for at most " +
                                        std::to_string(4 * kMaxBlocks) + " per sample");
        }
    }
    const Kernels& run = kernels();
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t rows = cu_seqlens[i + 1] - cu_seqlens[i];
            if (rows <= 1) continue;  // nothing, or CLS alone
            const auto sample = static_cast<std::uint64_t>(sample_id[i]);
            const DrawKey key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                                 static_cast<std::uint32_t>(sample),
                                 static_cast<std::uint32_t>(sample >> 32), epoch};
            run.add_noise(tokens + (cu_seqlens[i] + 1) * patch_len, (rows - 1) * patch_len, snr_db[i], key);
        }
    };
    parallel_for(batch, samples_per_range(batch, 8 * num_tokens * patch_len), num_threads, body);
}

}  // namespace lwm
