// Weights packed for tiles of bfloat16, and the loops over them: with AMX, or emulated for tests.
//
// "Planes" are how a float is kept: one bfloat16, or the sum of two or three. A product of operands of n planes sums
// the n (n + 1) / 2 products of planes that matter: 1, 3 ("bf16x3") or 6 tile products for one.
//
// Included by files compiled for AVX-512: structures of plain pointers only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bf16.h"
#include "encoder.h"

namespace lwm {

constexpr std::int64_t kTileRows = 16;   // rows of a tile
constexpr std::int64_t kTileDepth = 32;  // bfloat16 in a row of a tile
constexpr std::int64_t kBlockRows = 32;     // tokens of a product: two tiles
constexpr std::int64_t kPanelColumns = 32;  // features of a product: two tiles
constexpr std::int64_t kTileValues = kTileRows * kTileDepth;

// A right operand: data[panel][depth tile][plane][2 tiles][16 pairs of depth][16 features][2].
struct TileMatrix {
    const Bf16* data;
    std::int64_t panels, depth_tiles;
};

struct AmxLayer {
    std::int64_t num_live;
    TileMatrix qkv;  // queries times log2(e) / sqrt(head_dim)
    // Columns of qkv of the first head's keys and values; its queries start at 0, the next head's at 16 more.
    std::int64_t key_column, value_column;
    TileMatrix out;  // depth: 16 values for each live head
    TileMatrix fc1, fc2;
    const float *qkv_bias, *out_bias, *fc1_bias, *fc2_bias;
    const float* mean;  // [embed_dim in, embed_dim out] of the collapsed heads, or null
    NormView norm1, norm2;
};

struct AmxWeights {
    std::int64_t patch_len, embed_dim, head_dim, ffn_dim, num_layers;
    std::int64_t most_live;     // heads of any layer
    std::int64_t most_columns;  // of any layer's qkv
    bool has_means;
    int planes;   // 1: bfloat16, 2: bf16x3
    bool narrow;  // head_dim < 16: queries, keys and their projection have a plane more
    float residual;
    const float* proj;      // [patch_len, embed_dim]
    const float* position;  // [num_positions, embed_dim]
    std::int64_t max_rows;  // 0: positions go by token number
    NormView norm;
    const AmxLayer* layers;
};

struct AmxKernels {
    std::size_t (*scratch_bytes)(const AmxWeights& weights, const Group& group);
    // As Encoder::encode.
    void (*encode_group)(const AmxWeights& weights, const Group& group, const float* tokens, Pool pool, float* out,
                         std::byte* scratch);
};

}  // namespace lwm
