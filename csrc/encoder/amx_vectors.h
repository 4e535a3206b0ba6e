// Sixteen floats and what the AMX path does with them: AVX-512 with its bfloat16 conversions, or an emulation of
// each instruction with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bf16.h"

#ifdef LWM_AMX_EMULATED
#include <cmath>
#else
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the "undefined" lanes inside its own intrinsics for a mistake of ours (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif

namespace {

using lwm::Bf16;

constexpr int kLanes = 16;

#ifndef LWM_AMX_EMULATED

struct Floats {
    __m512 v;
};

inline Floats load(const float* source) { return {_mm512_loadu_ps(source)}; }
inline void store(float* target, Floats a) { _mm512_storeu_ps(target, a.v); }
inline Floats splat(float x) { return {_mm512_set1_ps(x)}; }
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats square_root(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
// Where either is NaN, b comes out.
inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }

// The upper half onto the lower, four times.
inline float sum_lanes(Floats a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float max_lanes(Floats a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// a times 2^n, where n is the integer in the low bits of `shifted` (see exp2_of).
inline Floats scale_by(Floats a, Floats shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), exponent))};
}

// Sixteen lanes of a, then of b, to the nearest even bfloat16; denormals become zero.
inline void store_bf16(Bf16* target, Floats a, Floats b) {
    const __m512bh packed = _mm512_cvtne2ps_pbh(b.v, a.v);
    std::memcpy(target, &packed, sizeof(packed));
}

inline void store_bf16(Bf16* target, Floats a) {
    const __m256bh packed = _mm512_cvtneps_pbh(a.v);
    std::memcpy(target, &packed, sizeof(packed));
}

// To the nearest even bfloat16 and back.
inline Floats rounded(Floats a) {
    const __m256bh packed = _mm512_cvtneps_pbh(a.v);
    __m256i bits;
    std::memcpy(&bits, &packed, sizeof(bits));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

// The first `count` of sixteen bfloat16, the rest zero.
inline __m256i first_of(const Bf16* source, int count) {
    return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1u), source);
}

// The bfloat16 of two rows in turns: 32 values row[0], next[0], row[1], ...
inline void store_pairs(Bf16* target, const Bf16* row, const Bf16* next, int count) {
    const __m512i low = _mm512_cvtepu16_epi32(first_of(row, count));
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(first_of(next, count)), 16);
    _mm512_storeu_si512(target, _mm512_or_si512(low, high));
}

// The largest magnitude of each of sixteen columns in `count` rows: as bits, finite bfloat16 are in order.
inline void store_magnitudes(Bf16* target, const Bf16* rows, std::int64_t stride, std::int64_t count) {
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i largest = _mm256_setzero_si256();
    for (std::int64_t r = 0; r < count; ++r) {
        __m256i row;
        std::memcpy(&row, rows + r * stride, sizeof(row));
        largest = _mm256_max_epu16(largest, _mm256_and_si256(row, magnitude));
    }
    std::memcpy(target, &largest, sizeof(largest));
}

// target[p][j] = pair p (values 2p and 2p+1) of row j: 16 rows of 16 values -> 8 rows of 16 pairs. Values from
// `count` on are zero.
inline void store_transposed_pairs(Bf16* target, const Bf16* const rows[16], int count) {
    const __m512i swap_in = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);  // 128-bit parts 0 and 2 of both
    const __m512i swap_out = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);  // parts 1 and 3
    __m512i r[8], t[8];
    for (int j = 0; j < 8; ++j) {
        r[j] = _mm512_inserti64x4(_mm512_castsi256_si512(first_of(rows[j], count)),
                                  first_of(rows[j + 8], count), 1);
    }
    for (int j = 0; j < 8; j += 2) {
        t[j] = _mm512_unpacklo_epi32(r[j], r[j + 1]);
        t[j + 1] = _mm512_unpackhi_epi32(r[j], r[j + 1]);
    }
    for (int half = 0; half < 2; ++half) {  // rows 0-3 (and 8-11), rows 4-7 (and 12-15)
        const int j = 4 * half;
        r[j] = _mm512_unpacklo_epi64(t[j], t[j + 2]);
        r[j + 1] = _mm512_unpackhi_epi64(t[j], t[j + 2]);
        r[j + 2] = _mm512_unpacklo_epi64(t[j + 1], t[j + 3]);
        r[j + 3] = _mm512_unpackhi_epi64(t[j + 1], t[j + 3]);
    }
    for (int p = 0; p < 4; ++p) {
        _mm512_storeu_si512(target + 32 * p, _mm512_permutex2var_epi64(r[p], swap_in, r[p + 4]));
        _mm512_storeu_si512(target + 32 * (p + 4), _mm512_permutex2var_epi64(r[p], swap_out, r[p + 4]));
    }
}

#else

struct Floats {
    float lane[kLanes];
};

template <class Function>
inline Floats map(Function function) {
    Floats out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = function(i);
    return out;
}

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

inline Floats load(const float* source) {
    Floats a;
    std::memcpy(a.lane, source, sizeof(a.lane));
    return a;
}
inline void store(float* target, const Floats& a) { std::memcpy(target, a.lane, sizeof(a.lane)); }
inline Floats splat(float x) {
    return map([x](int) { return x; });
}
inline Floats operator+(const Floats& a, const Floats& b) {
    return map([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Floats operator-(const Floats& a, const Floats& b) {
    return map([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Floats operator*(const Floats& a, const Floats& b) {
    return map([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Floats operator/(const Floats& a, const Floats& b) {
    return map([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline Floats square_root(const Floats& a) {
    return map([&](int i) { return std::sqrt(a.lane[i]); });
}
inline Floats larger(const Floats& a, const Floats& b) {
    return map([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}

inline float sum_lanes(Floats a) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
    }
    return a.lane[0];
}

inline float max_lanes(Floats a) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
    }
    return a.lane[0];
}

inline Floats scale_by(const Floats& a, const Floats& shifted) {
    return map([&](int i) { return from_bits(bits_of(a.lane[i]) + (bits_of(shifted.lane[i]) << 23)); });
}

inline void store_bf16(Bf16* target, const Floats& a) {
    for (int i = 0; i < kLanes; ++i) target[i] = lwm::to_bf16(a.lane[i]);
}

inline void store_bf16(Bf16* target, const Floats& a, const Floats& b) {
    store_bf16(target, a);
    store_bf16(target + kLanes, b);
}

inline Floats rounded(const Floats& a) {
    return map([&](int i) { return lwm::from_bf16(lwm::to_bf16(a.lane[i])); });
}

inline void store_pairs(Bf16* target, const Bf16* row, const Bf16* next, int count) {
    for (int i = 0; i < 16; ++i) {
        target[2 * i] = i < count ? row[i] : Bf16{0};
        target[2 * i + 1] = i < count ? next[i] : Bf16{0};
    }
}

inline void store_magnitudes(Bf16* target, const Bf16* rows, std::int64_t stride, std::int64_t count) {
    for (int i = 0; i < 16; ++i) target[i] = 0;
    for (std::int64_t r = 0; r < count; ++r) {
        for (int i = 0; i < 16; ++i) {
            const Bf16 magnitude = rows[r * stride + i] & 0x7fffu;
            if (magnitude > target[i]) target[i] = magnitude;
        }
    }
}

inline void store_transposed_pairs(Bf16* target, const Bf16* const rows[16], int count) {
    for (int p = 0; p < 8; ++p) {
        for (int j = 0; j < 16; ++j) {
            for (int i = 0; i < 2; ++i) target[32 * p + 2 * j + i] = 2 * p + i < count ? rows[j][2 * p + i] : Bf16{0};
        }
    }
}

#endif

constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: pushes the fraction out, the integer stays in the low bits

// 2^(a - n), given shift = kShift - n for an integer n with |a - n| <= 126. Relative error 8e-5 where the result is
// rounded to bfloat16 (4e-3), else 1e-7.
template <bool kExact>
inline Floats exp2_of(Floats a, Floats shift) {
    const Floats shifted = a + shift;
    const Floats x = a - (shifted - shift);  // in [-1/2, 1/2]
    Floats p;
    if constexpr (kExact) {
        p = fma(splat(1.3276472454890609e-3f), x, splat(9.675541892647743e-3f));
        p = fma(p, x, splat(5.550713092088699e-2f));
        p = fma(p, x, splat(2.4022120237350464e-1f));
        p = fma(p, x, splat(6.931469440460205e-1f));
        p = fma(p, x, splat(1.0000001192092896f));
    } else {
        p = fma(splat(5.51716685295105e-2f), x, splat(2.426111251115799e-1f));
        p = fma(p, x, splat(6.932609677314758e-1f));
        p = fma(p, x, splat(9.999280571937561e-1f));
    }
    return scale_by(p, shifted);
}

}  // namespace
