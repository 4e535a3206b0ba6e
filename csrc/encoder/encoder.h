// What an implementation of the encoder is given and does: one for each precision and instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lwm {

// Plain alpha and bias of a Norm: alpha (x - mean) / (unbiased std + 1e-6) + bias.
struct NormView {
    const float* alpha;
    const float* bias;
};

// One layer's weights, float32 and row-major; valid only while an encoder is made of them.
//
// Heads that attend uniformly are not among the live ones: `mean` and `out_bias` hold what they do.
struct LayerView {
    std::int64_t num_live;
    const float* qkv;       // [3, num_live * head_dim, embed_dim]
    const float* qkv_bias;  // [3, num_live * head_dim]
    const float* out;       // [embed_dim, num_live * head_dim]
    const float* out_bias;  // [embed_dim]
    const float* mean;      // [embed_dim, embed_dim], applied to the mean token of a sequence; or null
    const float* fc1;       // [ffn_dim, embed_dim]
    const float* fc1_bias;
    const float* fc2;  // [embed_dim, ffn_dim]
    const float* fc2_bias;
    NormView norm1;
    NormView norm2;  // alpha null: no second Norm (v1.0)
};

// Positions go by token number, or by the row and the column of a patch, whose vectors are added.
struct EncoderView {
    std::int64_t patch_len, embed_dim, head_dim, ffn_dim;
    std::int64_t num_positions;         // the longest sequence; with a grid: 1 + max_rows + max_columns
    std::int64_t max_rows, max_columns;  // of the grid of patches; 0: by token number
    float residual;                     // weight of a layer's input in its first sum
    const float* proj;                  // [embed_dim, patch_len]
    const float* position;  // [num_positions, embed_dim], with the projection's bias; a grid's: CLS, rows, columns
    NormView norm;
    std::vector<LayerView> layers;
};

// mean: of the patches; patches and tokens: a row for each, without and with CLS.
enum class Pool { cls, mean, mean_with_cls, patches, tokens };

// Rows of the result that a sequence gives.
static inline std::int64_t pooled_rows(Pool pool, std::int64_t length) {
    if (pool == Pool::tokens) return length;
    return pool == Pool::patches ? length - 1 : 1;
}

// Whole sequences, one after another, CLS first.
struct Group {
    const std::int32_t* lengths;
    std::int64_t count;
    std::int64_t rows;          // sum of lengths
    std::int64_t longest;       // largest of lengths
    const std::int32_t* grids;  // [count, 2] rows and columns of patches; null where positions go by token number
};

// How many rows a group should have, and the multiple that its work is rounded up to.
struct GroupSize {
    std::int64_t rows, multiple;
};

// Packs its weights when it is made and never changes: many threads use it at once.
//
// A sequence's result must not depend on the group that it is in.
class Encoder {
public:
    virtual ~Encoder() = default;

    virtual GroupSize group_size() const = 0;
    virtual std::size_t scratch_bytes(const Group& group) const = 0;

    // tokens [rows, patch_len] -> out [sum of pooled_rows, embed_dim].
    // scratch: scratch_bytes() from a multiple of 64 bytes on, this thread's own, of any content.
    virtual void encode(const Group& group, const float* tokens, Pool pool, float* out,
                        std::byte* scratch) const = 0;
};

}  // namespace lwm
