#include "tokenize.h"

#include <algorithm>

#include "dispatch.h"
#include "parallel.h"

namespace lwm {

void tokenize_sample(const float* csi, const Packing& packing, std::int64_t sample, const PerSample& scale,
                     const PerSample& cls, float* rows, TokenVersion version) {
    const Kernels& run = kernels();
    const std::int64_t patch_len = patch_length(version);
    const float factor = *scale.row(sample, 1);
    std::copy_n(cls.row(sample, patch_len), patch_len, rows);
    rows += patch_len;
    if (version == TokenVersion::v1_0) {
        const std::int64_t count = packing.antennas(sample) * packing.subcarriers(sample);
        run.split_complex(csi, count, factor, rows, rows + count);
    } else {
        run.cut_patches(csi, packing.antennas(sample), packing.subcarriers(sample), factor, rows);
    }
}

void tokenize(const float* csi, std::int64_t num_elements, const Packing& packing, const PerSample& scale,
              const PerSample& cls, float* tokens, std::int64_t num_tokens, TokenVersion version,
              int num_threads) {
    check_packing(packing, version, num_elements, num_tokens);
    const std::int64_t patch_len = patch_length(version);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            tokenize_sample(csi + 2 * packing.offsets[i], packing, i, scale, cls,
                            tokens + packing.cu_seqlens[i] * patch_len, version);
        }
    };
    parallel_for(packing.batch, samples_per_range(packing.batch, num_elements), num_threads, body);
}

void detokenize(const float* tokens, std::int64_t num_tokens, const Packing& packing, const PerSample& scale,
                float* csi, std::int64_t num_elements, TokenVersion version, int num_threads) {
    check_packing(packing, version, num_elements, num_tokens);
    const Kernels& run = kernels();
    const std::int64_t patch_len = patch_length(version);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const float* source = tokens + (packing.cu_seqlens[i] + 1) * patch_len;
            float* target = csi + 2 * packing.offsets[i];
            const float factor = *scale.row(i, 1);
            if (version == TokenVersion::v1_0) {
                const std::int64_t count = packing.antennas(i) * packing.subcarriers(i);
                run.join_complex(source, source + count, count, factor, target);
            } else {
                run.paste_patches(source, packing.antennas(i), packing.subcarriers(i), factor, target);
            }
        }
    };
    parallel_for(packing.batch, samples_per_range(packing.batch, num_elements), num_threads, body);
}

}  // namespace lwm
