// Packed float32 weights and the table of loops over them, one per instruction set.
//
// Included by files compiled for AVX-512: structures of plain pointers only.
#pragma once

#include <cstdint>

#include "encoder.h"

namespace lwm {

// A matrix [features, depth] in blocks of tile_features rows: data[block][depth][tile_features], zeros behind the
// last row.
struct PackedMatrix {
    const float* data;
    std::int64_t features, depth;
};

// One layer. Head passes: heads of a pass have their queries, keys and values projected together, before they
// attend. Queries come out times log2(e) / sqrt(head_dim), for a softmax of powers of two.
struct FloatLayer {
    std::int64_t num_live;
    const PackedMatrix* passes;       // [num_passes], each 3 * heads * head_dim features: all queries, keys, values
    const float* const* pass_biases;  // [num_passes]
    PackedMatrix out, mean, fc1, fc2;  // mean.data null: no collapsed heads
    const float *out_bias, *fc1_bias, *fc2_bias;
    NormView norm1, norm2;

    // The layer for CLS rows alone (the last one).
    PackedMatrix cls_query;           // [num_live * head_dim, embed_dim]
    const float* cls_query_bias;
    const PackedMatrix* cls_keys;     // [num_live] transposed W_K of a head: [embed_dim, head_dim]
    const PackedMatrix* cls_values;   // [num_live] W_V of a head: [head_dim, embed_dim]
    const float* cls_value_bias;      // [num_live * head_dim]
};

struct FloatWeights {
    std::int64_t patch_len, embed_dim, head_dim, ffn_dim;
    std::int64_t num_positions, max_rows;    // max_rows 0: positions go by token number
    std::int64_t heads_per_pass, most_live;  // most_live: of any layer
    float residual;
    PackedMatrix proj;
    const float* position;  // [embed_dim, num_positions], with the projection's bias
    NormView norm;
    const FloatLayer* layers;
    std::int64_t num_layers;
};

struct FloatKernels {
    std::int64_t lanes;          // floats of a vector
    std::int64_t tile_features;  // rows of a packed block

    // Floats of work space that encode_group needs.
    std::int64_t (*scratch_floats)(const FloatWeights& weights, const Group& group);

    // As Encoder::encode.
    void (*encode_group)(const FloatWeights& weights, const Group& group, const float* tokens, Pool pool, float* out,
                         float* scratch);
};

}  // namespace lwm
