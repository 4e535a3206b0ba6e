// Embedding, and everything of a layer but attention, a block of tokens at a time: a block's activations stay in
// the first levels of cache while the weights stream past.
#include <cmath>

#include "float_work.h"

namespace lwm::LWM_ISA {
namespace {

constexpr float kEpsilon = 1e-6f;  // added to the standard deviation, not to the variance

LWM_INLINE FloatVector square_root(const FloatVector& x) {
    float lanes[kLanes];
    store(lanes, x);
    for (int l = 0; l < kLanes; ++l) lanes[l] = std::sqrt(lanes[l]);
    return load(lanes);
}

// sum = value(0, v) + .. + value(features - 1, v), in interleaved parts: half the rounding error, and no sum waits for
// the one before.
template <int vectors, typename Value>
LWM_INLINE void sum_features(std::int64_t features, const Value& value, FloatVector (&sum)[vectors]) {
    constexpr int kParts = 4;
    FloatVector part[kParts][vectors];
    LWM_UNROLL
    for (int i = 0; i < kParts; ++i) {
        LWM_UNROLL
        for (int v = 0; v < vectors; ++v) part[i][v] = splat(0.0f);
    }
    for (std::int64_t f = 0; f < features; f += kParts) {
        LWM_UNROLL
        for (int i = 0; i < kParts; ++i) {
            if (f + i >= features) break;
            LWM_UNROLL
            for (int v = 0; v < vectors; ++v) part[i][v] = part[i][v] + value(f + i, v);
        }
    }
    for (int v = 0; v < vectors; ++v) sum[v] = (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]);
}

// Norm over the features of each token; source and target may be the same.
template <int vectors>
void normalise(const NormView& norm, std::int64_t features, const float* source, std::int64_t stride, float* target,
               std::int64_t target_stride) {
    const auto value = [&](std::int64_t f, int v) { return load(source + f * stride + v * kLanes); };
    FloatVector mean[vectors], scale[vectors];
    sum_features<vectors>(features, value, mean);
    for (int v = 0; v < vectors; ++v) mean[v] = mean[v] * splat(1.0f / static_cast<float>(features));
    const auto square = [&](std::int64_t f, int v) {
        const FloatVector away = value(f, v) - mean[v];
        return away * away;
    };
    sum_features<vectors>(features, square, scale);
    for (int v = 0; v < vectors; ++v) {
        const FloatVector deviation = square_root(scale[v] * splat(1.0f / static_cast<float>(features - 1)));
        scale[v] = splat(1.0f) / (deviation + splat(kEpsilon));
    }
    for (std::int64_t f = 0; f < features; ++f) {
        const FloatVector alpha = splat(norm.alpha[f]), bias = splat(norm.bias[f]);
        for (int v = 0; v < vectors; ++v) {
            const FloatVector unit = (value(f, v) - mean[v]) * scale[v];
            store(target + f * target_stride + v * kLanes, unit * alpha + bias);
        }
    }
}

// u = residual x + attention, a = Norm(u), x = a + FFN(a), or the second Norm of it.
template <int vectors>
void finish_block(const FloatWeights& w, const FloatLayer& layer, const float* context, float residual, float* x,
                  std::int64_t stride, float* block) {
    float* u = block;
    float* a = u + w.embed_dim * kBlock;
    float* hidden = a + w.embed_dim * kBlock;
    const PackedMatrix nothing = {layer.out.data, layer.out.features, 0};
    const PackedMatrix& out = context != nullptr ? layer.out : nothing;
    Finish attention;
    attention.bias = layer.out_bias;
    attention.add = x;
    attention.add_stride = stride;
    attention.factor = residual;
    project<vectors>(out, 0, out.depth, context, stride, attention, u, kBlock);
    normalise<vectors>(layer.norm1, w.embed_dim, u, kBlock, a, kBlock);
    for (std::int64_t first = 0; first < w.ffn_dim; first += kHiddenChunk) {
        const std::int64_t left = w.ffn_dim - first;
        const std::int64_t features = left < kHiddenChunk ? left : kHiddenChunk;
        Finish relu;
        relu.bias = layer.fc1_bias + first;
        relu.relu = true;
        const PackedMatrix rows = {layer.fc1.data + first * w.embed_dim, features, w.embed_dim};
        project<vectors>(rows, 0, w.embed_dim, a, kBlock, relu, hidden, kBlock);
        Finish sum;
        sum.onto = first > 0;
        if (left <= kHiddenChunk) {
            sum.bias = layer.fc2_bias;
            sum.add = a;
            sum.add_stride = kBlock;
        }
        project<vectors>(layer.fc2, first, features, hidden, kBlock, sum, u, kBlock);
    }
    if (layer.norm2.alpha != nullptr) {
        normalise<vectors>(layer.norm2, w.embed_dim, u, kBlock, x, stride);
        return;
    }
    for (std::int64_t f = 0; f < w.embed_dim; ++f) {
        for (int v = 0; v < vectors; ++v) store(x + f * stride + v * kLanes, load(u + f * kBlock + v * kLanes));
    }
}

// x of a block holds the positions; columns beyond `rows` are zeros.
template <int vectors>
void embed_block(const FloatWeights& w, const float* tokens, std::int64_t rows, float* x, std::int64_t stride,
                 float* block) {
    for (std::int64_t t = 0; t < vectors * kLanes; ++t) {
        for (std::int64_t c = 0; c < w.patch_len; ++c) {
            block[c * kBlock + t] = t < rows ? tokens[t * w.patch_len + c] : 0.0f;
        }
    }
    Finish position;
    position.add = x;
    position.add_stride = stride;
    project<vectors>(w.proj, 0, w.patch_len, block, kBlock, position, x, stride);
    normalise<vectors>(w.norm, w.embed_dim, x, stride, x, stride);
}

// Positions of one feature over a grid of patches: CLS, then the sums of a row's and a column's. values: of CLS, of
// max_rows rows and of the columns.
void grid_positions(const float* values, std::int64_t max_rows, const std::int32_t* grid, float* target) {
    const std::int64_t num_rows = grid[0], num_columns = grid[1];
    const float *rows = values + 1, *columns = rows + max_rows;
    *target++ = values[0];
    for (std::int64_t r = 0; r < num_rows; ++r, target += num_columns) {
        for (std::int64_t c = 0; c < num_columns; ++c) target[c] = rows[r] + columns[c];
    }
}

}  // namespace

void embed_tokens(const FloatWeights& w, const Group& group, const float* tokens, float* x, std::int64_t stride,
                  float* block) {
    for (std::int64_t f = 0; f < w.embed_dim; ++f) {
        const float* position = w.position + f * w.num_positions;
        float* row = x + f * stride;
        for (std::int64_t s = 0; s < group.count; row += group.lengths[s++]) {
            if (w.max_rows > 0) {
                grid_positions(position, w.max_rows, group.grids + 2 * s, row);
            } else {
                std::memcpy(row, position, sizeof(float) * static_cast<std::size_t>(group.lengths[s]));
            }
        }
        for (std::int64_t t = group.rows; t < stride; ++t) x[f * stride + t] = 0.0f;
    }
    for_blocks(group.rows, [&](std::int64_t first, auto width) {
        embed_block<decltype(width)::value>(w, tokens + first * w.patch_len, group.rows - first, x + first, stride,
                                            block);
    });
}

void finish_layer(const FloatWeights& w, const FloatLayer& layer, const float* context, float residual, float* x,
                  std::int64_t columns, std::int64_t stride, float* block) {
    for_blocks(columns, [&](std::int64_t first, auto width) {
        const float* values = context == nullptr ? nullptr : context + first;
        finish_block<decltype(width)::value>(w, layer, values, residual, x + first, stride, block);
    });
}

void mean_tokens(std::int64_t embed_dim, const Group& group, const float* x, std::int64_t stride, float* means,
                 std::int64_t cls_stride) {
    for (std::int64_t f = 0; f < embed_dim; ++f) {
        const float* row = x + f * stride;
        for (std::int64_t s = 0; s < group.count; ++s) {
            const std::int64_t length = group.lengths[s];
            means[f * cls_stride + s] = sum_values(row, length) / static_cast<float>(length);
            row += length;
        }
    }
}

void collapsed_heads(const FloatLayer& layer, std::int64_t columns, const float* means, float* parts,
                     std::int64_t stride) {
    for_blocks(columns, [&](std::int64_t first, auto width) {
        project<decltype(width)::value>(layer.mean, 0, layer.mean.depth, means + first, stride, Finish(),
                                        parts + first, stride);
    });
}

}  // namespace lwm::LWM_ISA
