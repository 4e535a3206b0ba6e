// Branch-free double functions that compilers turn into vector code; far more exact than float32 needs.
// Included by files compiled for AVX-512: each keeps its own copy.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Nearest integer of |x| < 2^51, by pushing the fraction out of the mantissa (plain SSE2 has no rounding).
[[maybe_unused]] inline double round_small(double x) {
    constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
    return (x + kShift) - kShift;
}

// cos and sin of 2 pi t for |t| <= 1/2; absolute error below 1e-13.
[[maybe_unused]] inline void cos_sin_turns(double t, double* cosine, double* sine) {
    const double quarter = round_small(4.0 * t);            // -2 .. 2
    const double x = 6.283185307179586477 * (t - 0.25 * quarter);  // |x| <= pi/4, exact subtraction
    const double y = x * x;
    const double s =
        x * (1.0 +
             y * (-1.0 / 6 +
                  y * (1.0 / 120 +
                       y * (-1.0 / 5040 +
                            y * (1.0 / 362880 + y * (-1.0 / 39916800 + y * (1.0 / 6227020800.0)))))));
    const double c =
        1.0 + y * (-1.0 / 2 +
                   y * (1.0 / 24 +
                        y * (-1.0 / 720 +
                             y * (1.0 / 40320 +
                                  y * (-1.0 / 3628800 +
                                       y * (1.0 / 479001600.0 + y * (-1.0 / 87178291200.0)))))));
    const double size = quarter < 0.0 ? -quarter : quarter;
    const double flip = size == 2.0 ? -1.0 : 1.0;
    *cosine = size == 1.0 ? -quarter * s : flip * c;
    *sine = size == 1.0 ? quarter * c : flip * s;
}

// Natural logarithm of a normal 0 < v <= 1; relative error below 1e-13.
[[maybe_unused]] inline double log_unit(double v) {
    // v = m * 2^e with m in [sqrt(1/2), sqrt(2)), so that nothing cancels near v = 1.
    constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdu, kOne = 0x3ff0000000000000u;
    constexpr std::uint64_t kTwo52Bits = 0x4330000000000000u;
    std::uint64_t bits;
    std::memcpy(&bits, &v, sizeof(bits));
    bits += kOne - kSqrtHalf;
    const std::uint64_t mantissa_bits = (bits & 0x000fffffffffffffu) + kSqrtHalf;
    const std::uint64_t exponent_bits = (bits >> 52) | kTwo52Bits;  // the double 2^52 + biased exponent
    double m, e;
    std::memcpy(&m, &mantissa_bits, sizeof(m));
    std::memcpy(&e, &exponent_bits, sizeof(e));
    e -= 4503599627370496.0 + 1023.0;
    const double s = (m - 1.0) / (m + 1.0);  // |s| <= 0.1716; log m = 2 atanh s
    const double y = s * s;
    const double series =
        1.0 + y * (1.0 / 3 +
                   y * (1.0 / 5 +
                        y * (1.0 / 7 +
                             y * (1.0 / 9 +
                                  y * (1.0 / 11 + y * (1.0 / 13 + y * (1.0 / 15 + y * (1.0 / 17))))))));
    return e * 0.693147180559945309 + 2.0 * s * series;
}

}  // namespace
