// The operations of a training step over whole tensors: work split among threads, sums in a fixed order.
//
// Tensors are dense float32 [batch, seq_len, ...]; `rows` = batch * seq_len. Results do not depend on the number of
// threads: rows are treated in ranges of fixed size, and sums over rows add the ranges' sums in their order.
#pragma once

#include <cstdint>
#include <vector>

#include "training_kernels.h"

namespace lwm {

// The dropout of one layer of one forward: what the words depend on, apart from token and feature.
class LayerDropout {
public:
    // words: random words of a token in this layer. Throws std::invalid_argument for arguments out of range.
    LayerDropout(std::vector<std::int64_t> sample_id, std::int64_t seq_len, std::uint64_t seed,
                 std::uint32_t epoch, std::int64_t layer, double probability, std::int64_t words);

    // The plan of the dropout whose words of a token begin at `first_word`, for rows of `width` entries.
    KeepPlan plan(std::int64_t rows, std::int64_t first_word, std::int64_t width) const;

private:
    std::vector<std::int64_t> sample_id_;
    std::int64_t seq_len_, words_;
    KeepPlan plan_;
};

void draw_keep(const KeepPlan& keep, std::int64_t rows, std::int64_t width, std::uint8_t* out, int num_threads);

void norm_forward(const NormForward& op, std::int64_t rows, int num_threads);
// sums [3, width]: gradients of alpha and bias, and the column sums of du (the gradient of u's bias).
void norm_backward(const NormBackward& op, std::int64_t rows, float* sums, int num_threads);

// h = drop(relu(h + bias)) in place; its backward turns dh into the gradient of h before the bias.
void relu_dropout(float* h, const float* bias, std::int64_t rows, std::int64_t width, const KeepPlan* keep,
                  int num_threads);
void relu_dropout_backward(float* dh, const float* h, std::int64_t rows, std::int64_t width, float scale,
                           float* bias_grad, int num_threads);

// out = residual + drop(out + bias) in place; backward: out = drop(dy).
void dropout_add(float* out, const float* bias, const float* residual, std::int64_t rows, std::int64_t width,
                 const KeepPlan* keep, int num_threads);
void dropout_backward(const float* dy, float* out, std::int64_t rows, std::int64_t width, const KeepPlan* keep,
                      float* bias_grad, int num_threads);

// softmax(q k / sqrt(head_dim)) v with q, k, v = qkv + bias; out [batch, seq_len, num_heads, head_dim];
// stats [batch, num_heads, 2, seq_len]: each query's highest score and 1 / sum of its weights.
// Throws std::invalid_argument for a head_dim without kernels.
void attention_forward(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out,
                       float* stats, int num_threads);
// dqkv as qkv; bias_grad [3, num_heads, head_dim].
void attention_backward(const AttentionSizes& sizes, const float* qkv, const float* bias, const float* out,
                        const float* stats, const float* dout, float* dqkv, float* bias_grad, int num_threads);

}  // namespace lwm
