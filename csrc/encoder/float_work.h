// Where the work space of a group lies, and what the parts of the float32 engine call of each other.
//
// Matrices [features, tokens] of a group have rows `stride` floats apart: whole cache lines, an odd number of them,
// so that the rows of a column fall into different sets of the cache.
#pragma once

#include "float_kernels.h"
#include "tiles.h"

namespace lwm::LWM_ISA {

constexpr std::int64_t kLineFloats = 16;
constexpr std::int64_t kHiddenChunk = 128;  // hidden features of the FFN made and used at a time
constexpr std::int64_t kMostKeys = 144;     // keys whose scores are held at a time

LWM_INLINE std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

LWM_INLINE std::int64_t row_stride(std::int64_t columns) {
    const std::int64_t lines = round_up(columns, kLineFloats) / kLineFloats;
    return (lines + 1 - lines % 2) * kLineFloats;
}

// Keys of a chunk: as equal as can be. They depend on the sequence alone, and so do the bits.
LWM_INLINE std::int64_t chunk_keys(std::int64_t length) {
    const std::int64_t chunks = (length + kMostKeys - 1) / kMostKeys;
    return (length + chunks - 1) / chunks;
}

// Offsets in floats from the start of the work space.
struct Work {
    std::int64_t stride;      // of matrices of the group's tokens
    std::int64_t cls_stride;  // of matrices with a column for each sequence
    std::int64_t x;           // [embed_dim, stride]: the tokens
    std::int64_t context;     // [most_live * head_dim, stride]: what heads give
    std::int64_t qkv;         // [3 * heads_per_pass * head_dim, stride]
    std::int64_t block;       // work space of a block: see block_floats
    std::int64_t scores;      // [kMostKeys, kBlock], or [most_live, stride] of the CLS layer
    std::int64_t queries;     // [2 * head_dim, kBlock]: a block's queries and the sums of its values
    std::int64_t means, mean_parts;  // [embed_dim, cls_stride]: mean tokens, and what collapsed heads add
    std::int64_t cls;         // [embed_dim, cls_stride]
    std::int64_t cls_query;   // [most_live * head_dim, cls_stride]
    std::int64_t cls_keys;    // [most_live, embed_dim, cls_stride]
    std::int64_t total;

    Work(const FloatWeights& w, const Group& group) {
        stride = row_stride(group.rows);
        cls_stride = row_stride(group.count);
        std::int64_t next = 0;
        const auto take = [&next](std::int64_t floats) {
            const std::int64_t place = next;
            next += round_up(floats, kLineFloats);
            return place;
        };
        // Behind the last row: a block that begins at the last token reaches beyond it.
        const auto matrix = [&](std::int64_t rows, std::int64_t columns) { return take(rows * columns + kBlock); };
        const std::int64_t attention = w.most_live * w.head_dim;
        x = matrix(w.embed_dim, stride);
        context = matrix(attention, stride);
        qkv = matrix(3 * w.heads_per_pass * w.head_dim, stride);
        block = take(block_floats(w));
        const std::int64_t cls_scores = w.most_live * row_stride(group.longest);
        scores = take(kMostKeys * kBlock > cls_scores ? kMostKeys * kBlock : cls_scores);
        queries = take(2 * w.head_dim * kBlock);
        means = matrix(w.embed_dim, cls_stride);
        mean_parts = matrix(w.embed_dim, cls_stride);
        cls = matrix(w.embed_dim, cls_stride);
        cls_query = matrix(attention, cls_stride);
        cls_keys = matrix(w.most_live * w.embed_dim, cls_stride);
        total = next;
    }

    // Of a block: tokens before embedding, or sums and Norm of attention, and a chunk of the hidden layer.
    static std::int64_t block_floats(const FloatWeights& w) {
        const std::int64_t layer = 2 * w.embed_dim + kHiddenChunk;
        return kBlock * (layer > w.patch_len ? layer : w.patch_len);
    }
};

// A sequence's place in its group.
struct Sequence {
    std::int64_t first, length;
};

// tokens [rows, patch_len] -> x [embed_dim, stride].
void embed_tokens(const FloatWeights& w, const Group& group, const float* tokens, float* x, std::int64_t stride,
                  float* block);

// Heads of a pass of one sequence: qkv [3 * heads * head_dim, stride] -> context [heads * head_dim, stride].
void attend(std::int64_t heads, std::int64_t head_dim, const float* qkv, float* context, std::int64_t stride,
            const Sequence& sequence, float* scores, float* queries);

// Everything of a layer behind attention, x in place. context null: no live heads. residual: of x.
void finish_layer(const FloatWeights& w, const FloatLayer& layer, const float* context, float residual, float* x,
                  std::int64_t columns, std::int64_t stride, float* block);

// means [embed_dim, cls_stride]: each sequence's mean token.
void mean_tokens(std::int64_t embed_dim, const Group& group, const float* x, std::int64_t stride, float* means,
                 std::int64_t cls_stride);

// What collapsed heads add to each sequence's tokens: parts = layer.mean x means.
void collapsed_heads(const FloatLayer& layer, std::int64_t columns, const float* means, float* parts,
                     std::int64_t stride);

// The layer for CLS rows alone, into work.cls [embed_dim, cls_stride].
void cls_layer(const FloatWeights& w, const FloatLayer& layer, const Group& group, const Work& work, float* space);

}  // namespace lwm::LWM_ISA
