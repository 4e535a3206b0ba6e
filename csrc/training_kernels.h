// The hot loops of the training step: what they take, and their table for one instruction set.
//
// All tensors are float32 and row-major; a row is one token. Included by files compiled for AVX-512.
#pragma once

#include <cstdint>

namespace lwm {

// Which entries of rows [batch * seq_len] one dropout of one layer keeps: Philox words, see philox.h and the
// plain twin in kernels/dropout.py. Row r is token r % seq_len of sample r / seq_len.
struct KeepPlan {
    const std::int64_t* sample_id;  // [batch]
    std::int64_t seq_len;
    std::uint32_t seed_low, seed_high, epoch;
    std::uint32_t first_block;       // fourth counter word of token 0's first block
    std::uint32_t blocks_per_token;  // of all dropouts of the layer
    std::uint32_t threshold;         // kept where (word >> 8) >= threshold
    float scale;                     // 1 / (1 - probability)
};

// z = residual * x + drop(u + u_bias); normal = (z - mean) / (std + eps); y = alpha * normal + bias.
struct NormForward {
    const float* x;       // or null: no residual
    float residual;
    const float* u;
    const float* u_bias;  // or null
    const float* alpha;
    const float* bias;
    float* normal;        // may be u
    float* y;
    float* stats;         // [rows, 2]: 1 / (std + eps), and 1 / ((width - 1) std) or 0
    std::int64_t width;
    const KeepPlan* keep;  // or null: no dropout
};

struct NormBackward {
    const float* dy;
    const float* normal;
    const float* stats;
    const float* alpha;
    float residual;
    float* dx;  // residual * dz; or null
    float* du;  // drop(dz); may be dy
    std::int64_t width;
    const KeepPlan* keep;
};

// Sizes of packed projections qkv [batch, seq_len, 3, num_heads, head_dim], their bias [3, num_heads, head_dim].
struct AttentionSizes {
    std::int64_t batch, seq_len, num_heads, head_dim;
};

struct TrainingKernels {
    // `count` bytes, 1 kept and 0 dropped, of row `row`; count is a multiple of 4.
    void (*draw_keep)(const KeepPlan& keep, std::int64_t row, std::int64_t count, std::uint8_t* out);

    // Rows [begin, end). `sums` of the backward ones are added to: column sums for the parameters' gradients.
    void (*norm_forward)(const NormForward& op, std::int64_t begin, std::int64_t end);
    void (*norm_backward)(const NormBackward& op, std::int64_t begin, std::int64_t end, float* sums);
    void (*relu_dropout)(float* h, const float* bias, std::int64_t width, const KeepPlan* keep,
                         std::int64_t begin, std::int64_t end);
    void (*relu_dropout_backward)(float* dh, const float* h, std::int64_t width, float scale,
                                  std::int64_t begin, std::int64_t end, float* sums);
    void (*dropout_add)(float* out, const float* bias, const float* residual, std::int64_t width,
                        const KeepPlan* keep, std::int64_t begin, std::int64_t end);
    void (*dropout_backward)(const float* dy, float* out, std::int64_t width, const KeepPlan* keep,
                             std::int64_t begin, std::int64_t end, float* sums);

    // One sequence each; stats [batch, num_heads, 2, seq_len]. scratch: attention_scratch() floats from a multiple
    // of 64 bytes on.
    void (*attention_forward)(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out,
                              float* stats, std::int64_t sequence, float* scratch);
    // sums [3, num_heads, head_dim]: of dqkv over this sequence.
    void (*attention_backward)(const AttentionSizes& sizes, const float* qkv, const float* bias,
                               const float* out, const float* stats, const float* dout, float* dqkv,
                               float* sums, std::int64_t sequence, float* scratch);
    bool (*attends)(std::int64_t head_dim);
    std::int64_t (*attention_scratch)(const AttentionSizes& sizes);
};

}  // namespace lwm
