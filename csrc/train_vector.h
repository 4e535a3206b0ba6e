// Vectors of floats as wide as the instruction set, for the loops of training that are sums or exponentials,
// which compilers do not turn into vector code by themselves.
#pragma once

#include "isa.h"

namespace {

#if defined(__GNUC__)

typedef std::int32_t IntVector __attribute__((vector_size(LWM_VECTOR_BYTES)));

[[maybe_unused]] inline FloatVector splat(float x) { return x - FloatVector{}; }
[[maybe_unused]] inline IntVector bits_of(FloatVector x) { return reinterpret_cast<IntVector>(x); }
[[maybe_unused]] inline FloatVector from_bits(IntVector x) { return reinterpret_cast<FloatVector>(x); }
// Where either is NaN, the second comes out.
[[maybe_unused]] inline FloatVector larger(FloatVector a, FloatVector b) { return a > b ? a : b; }
[[maybe_unused]] inline FloatVector smaller(FloatVector a, FloatVector b) { return a < b ? a : b; }

#else

struct IntVector {
    std::int32_t lane[kVectorWidth];
    friend IntVector operator+(const IntVector& a, const IntVector& b) {
        IntVector sum;
        for (int i = 0; i < kVectorWidth; ++i) {
            sum.lane[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) +
                                                    static_cast<std::uint32_t>(b.lane[i]));
        }
        return sum;
    }
    friend IntVector operator<<(const IntVector& a, int by) {
        IntVector moved;
        for (int i = 0; i < kVectorWidth; ++i) {
            moved.lane[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) << by);
        }
        return moved;
    }
};

inline FloatVector splat(float x) {
    FloatVector v;
    for (int i = 0; i < kVectorWidth; ++i) v.lane[i] = x;
    return v;
}
inline FloatVector operator+(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] += b.lane[i];
    return a;
}
inline FloatVector operator-(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] -= b.lane[i];
    return a;
}
inline FloatVector operator*(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] *= b.lane[i];
    return a;
}
inline IntVector bits_of(const FloatVector& x) {
    IntVector bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}
inline FloatVector from_bits(const IntVector& x) {
    FloatVector value;
    std::memcpy(&value, &x, sizeof(value));
    return value;
}
inline FloatVector larger(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
inline FloatVector smaller(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
inline FloatVector operator/(FloatVector a, const FloatVector& b) {
    for (int i = 0; i < kVectorWidth; ++i) a.lane[i] /= b.lane[i];
    return a;
}

#endif

[[maybe_unused]] inline float sum_lanes(const FloatVector& vector) {
    float lanes[kVectorWidth];
    store(lanes, vector);
    for (int width = kVectorWidth / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
}

// exp(x) for x <= 0, and exp(0) beyond; below -87 it stays at exp(-87), about 1e-38. Relative error below 2e-7.
// NaN gives NaN.
[[maybe_unused]] inline FloatVector exp_negative(FloatVector x) {
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: pushes the fraction out, the integer stays in the low bits
    x = smaller(splat(0.0f), larger(splat(-87.0f), x));
    const FloatVector shifted = x * splat(1.44269504f) + splat(kShift);
    const FloatVector n = shifted - splat(kShift);
    // ln 2 in two parts: n times the first is exact.
    const FloatVector r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    // 1 + r + r^2 (...), the factor fitted for the smallest relative error on |r| <= ln 2 / 2: below 4e-9.
    FloatVector p = splat(1.37513821e-3f);
    p = p * r + splat(8.36892343e-3f);
    p = p * r + splat(4.16695342e-2f);
    p = p * r + splat(1.66665184e-1f);
    p = p * r + splat(4.99999886e-1f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    return from_bits(bits_of(p) + (bits_of(shifted) << 23));  // times 2^n
}

}  // namespace
