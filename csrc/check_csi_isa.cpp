#include <cmath>

#include "isa.h"
#include "kernels.h"

namespace lwm::LWM_ISA {

std::uint32_t largest_bits(const float* csi, std::int64_t count);
double sum_abs(const float* csi, std::int64_t count);

std::uint32_t largest_bits(const float* csi, std::int64_t count) {
    // Without its sign, a float's bit pattern orders like its size, NaN above Inf above all numbers.
    std::int32_t largest = 0;
    for (std::int64_t i = 0; i < 2 * count; ++i) {
        std::int32_t bits;
        std::memcpy(&bits, csi + i, sizeof(bits));
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return static_cast<std::uint32_t>(largest);
}

double sum_abs(const float* csi, std::int64_t count) {
    // In double, where squares neither underflow nor overflow; lanes fix the order of the sum.
    constexpr int kLanes = 8;
    double sums[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const double real = csi[2 * (i + lane)], imag = csi[2 * (i + lane) + 1];
            sums[lane] += std::sqrt(real * real + imag * imag);
        }
    }
    double sum = 0.0;
    for (; i < count; ++i) {
        const double real = csi[2 * i], imag = csi[2 * i + 1];
        sum += std::sqrt(real * real + imag * imag);
    }
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    return sum;
}

}  // namespace lwm::LWM_ISA
