// bfloat16: the upper half of a float. A float is the sum of three of them; two keep 16 to 17 of its 24 bits.
//
// Included by files compiled for AVX-512: functions here are static, so that each file keeps its own copy.
#pragma once

#include <cstdint>
#include <cstring>

namespace lwm {

typedef std::uint16_t Bf16;  // the bits

// To nearest even, as VCVTNEPS2BF16 (Intel's SDM): denormals keep their sign only, NaN is made quiet.
static inline Bf16 to_bf16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    const std::uint32_t exponent = bits & 0x7f800000u;
    if (exponent == 0) return static_cast<Bf16>((bits >> 16) & 0x8000u);
    const bool nan = exponent == 0x7f800000u && (bits & 0x007fffffu) != 0;
    if (exponent == 0x7f800000u) return static_cast<Bf16>((bits >> 16) | (nan ? 0x40u : 0u));
    return static_cast<Bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float from_bf16(Bf16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

}  // namespace lwm
