// The eight tile registers of AMX, as instructions or as an emulation of them with the same bits.
//
// Everything built on this header is the same text for both (LWM_AMX_EMULATED chooses at compile time), so
// packing, layouts and edges are tested on machines without AMX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bf16.h"

#ifdef LWM_AMX_EMULATED
#include <stdexcept>
#endif

namespace {

// The 64 bytes that LDTILECFG reads. A register holds `rows` rows of `bytes` bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes[16] = {};
    std::uint8_t rows[16] = {};

    void shape(int tile, int num_rows, int num_bytes) {
        rows[tile] = static_cast<std::uint8_t>(num_rows);
        bytes[tile] = static_cast<std::uint16_t>(num_bytes);
    }
};
static_assert(sizeof(TileConfig) == 64, "LDTILECFG reads 64 bytes");

#ifndef LWM_AMX_EMULATED

// Written as assembly because compilers' intrinsics for tiles do not say which memory they touch.
inline void tile_configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

inline void tile_release() { __asm__ volatile("tilerelease"); }

template <int kTile>
inline void tile_zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// Rows `stride` bytes apart.
template <int kTile>
inline void tile_load(const void* source, std::ptrdiff_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(source), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
inline void tile_store(void* target, std::ptrdiff_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(target), "r"(stride), "i"(kTile) : "memory");
}

// kSum [m, n] float32 += kLeft [m, 2k] bfloat16 times kRight [k, n] pairs of bfloat16.
template <int kSum, int kLeft, int kRight>
inline void tile_dot() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

#else

struct TileFile {
    TileConfig config;
    bool configured = false;
    alignas(64) unsigned char bytes[8][16][64] = {};
};

thread_local TileFile tile_file;

// What the processor answers with an invalid-opcode or a general-protection fault.
inline void tile_check(bool legal, const char* what) {
    if (!legal) throw std::logic_error(what);
}

inline void tile_configure(const TileConfig& config) {
    tile_check(config.palette == 1 && config.start_row == 0, "tile configuration: palette or start row");
    for (int t = 0; t < 16; ++t) {
        const bool used = config.rows[t] != 0;
        tile_check(used == (config.bytes[t] != 0), "tile configuration: rows without bytes or bytes without rows");
        tile_check(config.rows[t] <= 16 && config.bytes[t] <= 64, "tile configuration: too large");
        tile_check(t < 8 || !used, "tile configuration: no such tile");
    }
    tile_file.config = config;
    tile_file.configured = true;
    std::memset(tile_file.bytes, 0, sizeof(tile_file.bytes));
}

inline void tile_release() { tile_file.configured = false; }

inline int tile_rows(int tile) {
    tile_check(tile_file.configured && tile_file.config.rows[tile] != 0, "tile used without a configuration");
    return tile_file.config.rows[tile];
}

template <int kTile>
inline void tile_zero() {
    tile_rows(kTile);
    std::memset(tile_file.bytes[kTile], 0, sizeof(tile_file.bytes[kTile]));
}

template <int kTile>
inline void tile_load(const void* source, std::ptrdiff_t stride) {
    const int rows = tile_rows(kTile);
    std::memset(tile_file.bytes[kTile], 0, sizeof(tile_file.bytes[kTile]));
    for (int r = 0; r < rows; ++r) {
        std::memcpy(tile_file.bytes[kTile][r], static_cast<const char*>(source) + r * stride,
                    tile_file.config.bytes[kTile]);
    }
}

template <int kTile>
inline void tile_store(void* target, std::ptrdiff_t stride) {
    const int rows = tile_rows(kTile);
    for (int r = 0; r < rows; ++r) {
        std::memcpy(static_cast<char*>(target) + r * stride, tile_file.bytes[kTile][r],
                    tile_file.config.bytes[kTile]);
    }
}

// The products never see denormals and never give them: inputs count as zero, results are flushed. (By masks, which
// compilers turn into vector code.)
inline float flushed(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    bits &= 0u - static_cast<std::uint32_t>((bits & 0x7fffffffu) >= 0x00800000u);
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

inline float flushed_bf16(const unsigned char* source) {
    lwm::Bf16 bits;
    std::memcpy(&bits, source, sizeof(bits));
    return flushed(lwm::from_bf16(bits));
}

// Intel's SDM, TDPBF16PS: the even and the odd products of a row have a sum each, rounded to nearest even at
// every step; both are added to each other, then to the destination. A product of two bfloat16 fits a float, so
// rounding after a plain multiplication and addition is that of the fused one (sums of order 1e-38 excepted).
template <int kSum, int kLeft, int kRight>
inline void tile_dot() {
    const int rows = tile_rows(kSum), depth = tile_rows(kRight);
    const int columns = tile_file.config.bytes[kSum] / 4;
    tile_check(tile_rows(kLeft) == rows, "tile product: rows of the left operand");
    tile_check(tile_file.config.bytes[kLeft] == 4 * depth, "tile product: depth");
    tile_check(tile_file.config.bytes[kRight] == tile_file.config.bytes[kSum], "tile product: columns");
    float right[32][16] = {};  // row 2k + parity
    for (int k = 0; k < depth; ++k) {
        for (int i = 0; i < 2 * columns; ++i) {
            right[2 * k + i % 2][i / 2] = flushed_bf16(tile_file.bytes[kRight][k] + 2 * i);
        }
    }
    for (int m = 0; m < rows; ++m) {
        float sum[2][16] = {};
        for (int i = 0; i < 2 * depth; ++i) {
            const float left = flushed_bf16(tile_file.bytes[kLeft][m] + 2 * i);
            float* total = sum[i % 2];
            for (int n = 0; n < 16; ++n) total[n] = flushed(total[n] + left * right[i][n]);
        }
        float total[16];
        std::memcpy(total, tile_file.bytes[kSum][m], sizeof(total));
        for (int n = 0; n < 16; ++n) total[n] = flushed(flushed(total[n]) + flushed(sum[0][n] + sum[1][n]));
        std::memcpy(tile_file.bytes[kSum][m], total, 4 * static_cast<std::size_t>(columns));
    }
}

#endif

// Configured from here to the end of the scope.
class TileScope {
public:
    explicit TileScope(const TileConfig& config) { tile_configure(config); }
    ~TileScope() { tile_release(); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

}  // namespace
