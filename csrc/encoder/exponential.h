// Powers of two with float32 accuracy: the softmax of the float32 engine.
#pragma once

#include "tiles.h"

#if defined(__GNUC__) && defined(__AVX512DQ__)
#include <immintrin.h>
#endif

namespace lwm {
namespace {

// 2^x; below -126 zero or next to it. Relative error at most 1.7e-7. NaN gives NaN.
LWM_INLINE FloatVector power_of_two(FloatVector x) {
#if defined(__GNUC__) && defined(__AVX512DQ__)
    // x = whole + part, 0 <= part < 1; the instruction that scales takes the whole part of x itself.
    constexpr int kDown = 0x09;
    const FloatVector part = reinterpret_cast<FloatVector>(_mm512_reduce_ps(reinterpret_cast<__m512>(x), kDown));
    FloatVector p = splat(0.00187757667f);
    p = p * part + splat(0.00898934034f);
    p = p * part + splat(0.0558263176f);
    p = p * part + splat(0.240153617f);
    p = p * part + splat(0.693153073f);
    p = p * part + splat(0.999999925f);
    constexpr __mmask16 kAll = 0xffff;  // as without a mask, where g++ 12 warns of its own header
    return reinterpret_cast<FloatVector>(
        _mm512_maskz_scalef_ps(kAll, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(x)));
#else
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: pushes the part out, the whole stays in the low bits
    x = larger(splat(-126.0f), x);
    const FloatVector shifted = x + splat(kShift);
    const FloatVector part = x - (shifted - splat(kShift));  // -1/2 .. 1/2
    FloatVector p = splat(0.00132647272f);
    p = p * part + splat(0.00967151281f);
    p = p * part + splat(0.0555073374f);
    p = p * part + splat(0.240222421f);
    p = p * part + splat(0.693146978f);
    p = p * part + splat(1.0f);
    return from_bits(bits_of(p) + (bits_of(shifted) << 23));
#endif
}

}  // namespace
}  // namespace lwm
