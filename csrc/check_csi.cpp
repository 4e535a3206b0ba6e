#include "check_csi.h"

#include "dispatch.h"
#include "packing.h"
#include "parallel.h"

namespace lwm {

std::uint8_t flag_of(std::uint32_t largest_bits) {
    constexpr std::uint32_t kInfinity = 0x7f800000u;
    if (largest_bits == 0) return kFlagAllZero;
    return largest_bits >= kInfinity ? kFlagNotFinite : std::uint8_t{0};
}

void check_csi(const float* csi, std::int64_t num_elements, const std::int64_t* offsets, std::int64_t batch,
               std::uint8_t* flags, float* mean_abs, int num_threads) {
    check_bounds("offsets", offsets, batch, num_elements, "csi");
    const Kernels& run = kernels();
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const float* sample = csi + 2 * offsets[i];
            const std::int64_t count = offsets[i + 1] - offsets[i];
            flags[i] = flag_of(run.largest_bits(sample, count));
            if (mean_abs == nullptr) continue;
            mean_abs[i] = count == 0 ? 0.0f
                                     : static_cast<float>(run.sum_abs(sample, count) / static_cast<double>(count));
        }
    };
    parallel_for(batch, samples_per_range(batch, num_elements), num_threads, body);
}

}  // namespace lwm
