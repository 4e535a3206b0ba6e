// The last layer where nothing but CLS is asked for.
//
// A head's scores against the CLS query are q (W_K x + b) = (W_K^T q) x + a number that softmax ignores, and its values
// are W_V (mean of x under the weights) + b: no keys and values of the other tokens are made. What belongs to whole
// sequences has them in the lanes.
#include "exponential.h"
#include "float_work.h"

namespace lwm::LWM_ISA {
namespace {

// Left side of the scores: row r is head r, the sum goes over features, the column is fixed.
struct Column {
    const float* data;
    std::int64_t stride, head_stride;
    LWM_INLINE float at(std::int64_t k, int row) const { return data[k * stride + row * head_stride]; }
    LWM_INLINE void fetch(std::int64_t) const {}
};

// scores [heads, stride] of one sequence: the tokens in the lanes.
void score_tokens(const Column& keys, std::int64_t heads, std::int64_t features, const float* x,
                  std::int64_t x_stride, std::int64_t length, float* scores, std::int64_t stride) {
    for_blocks(length, [&](std::int64_t first, auto width) {
        constexpr int kVectors = decltype(width)::value;
        for (std::int64_t h = 0; h < heads;) {
            const std::int64_t rows = next_rows(heads - h);
            with_constant<kTileRows>(rows, [&](auto count) {
                constexpr int kRows = decltype(count)::value;
                Tile<kRows, kVectors> tile;
                tile.clear();
                const Column left = {keys.data + h * keys.head_stride, keys.stride, keys.head_stride};
                tile.multiply(left, features, x + first, x_stride);
                LWM_UNROLL
                for (int r = 0; r < kRows; ++r) {
                    LWM_UNROLL
                    for (int v = 0; v < kVectors; ++v) {
                        store(scores + (h + r) * stride + first + v * kLanes, tile.sum[r][v]);
                    }
                }
            });
            h += rows;
        }
    });
}

// The softmax of one row in place; zeros behind its last value, up to whole vectors.
void softmax(float* row, std::int64_t length) {
    float top = row[0];
    for (std::int64_t t = 1; t < length; ++t) top = top > row[t] ? top : row[t];
    for (std::int64_t t = 0; t < length; t += kLanes) store(row + t, power_of_two(load(row + t) - splat(top)));
    const std::int64_t end = round_up(length, kLanes);
    for (std::int64_t t = length; t < end; ++t) row[t] = 0.0f;
    const FloatVector inverse = splat(1.0f / sum_values(row, end));
    for (std::int64_t t = 0; t < end; t += kLanes) store(row + t, load(row + t) * inverse);
}

// means[h * head_stride + f * stride] = sum over tokens of weights[h] x[f].
template <int heads>
void weighted_tokens(const float* weights, std::int64_t weight_stride, const float* x, std::int64_t x_stride,
                     std::int64_t length, std::int64_t features, float* means, std::int64_t stride,
                     std::int64_t head_stride) {
    for (std::int64_t f = 0; f < features; ++f) {
        const float* row = x + f * x_stride;
        FloatVector sum[heads];
        for (int h = 0; h < heads; ++h) sum[h] = splat(0.0f);
        for (std::int64_t t = 0; t < length; t += kLanes) {
            // Behind the sequence lie others, whose values may be NaN.
            const FloatVector values = t + kLanes <= length ? load(row + t) : load_part(row + t, length - t);
            for (int h = 0; h < heads; ++h) sum[h] = sum[h] + values * load(weights + h * weight_stride + t);
        }
        for (int h = 0; h < heads; ++h) means[h * head_stride + f * stride] = sum_lanes(sum[h]);
    }
}

// project() for every block of the sequences.
void project_all(const PackedMatrix& matrix, const float* right, std::int64_t columns, std::int64_t stride,
                 const float* bias, float* target) {
    Finish finish;
    finish.bias = bias;
    for_blocks(columns, [&](std::int64_t first, auto width) {
        project<decltype(width)::value>(matrix, 0, matrix.depth, right + first, stride, finish, target + first, stride);
    });
}

}  // namespace

void cls_layer(const FloatWeights& w, const FloatLayer& layer, const Group& group, const Work& work, float* space) {
    const std::int64_t stride = work.cls_stride, score_stride = row_stride(group.longest);
    const std::int64_t head_stride = w.embed_dim * stride;
    float *cls = space + work.cls, *query = space + work.cls_query, *keys = space + work.cls_keys;
    float *scores = space + work.scores, *context = query;
    const float* x = space + work.x;
    for (std::int64_t f = 0; f < w.embed_dim; ++f) {
        for (std::int64_t s = 0, first = 0; s < group.count; first += group.lengths[s++]) {
            cls[f * stride + s] = x[f * work.stride + first];
        }
    }
    project_all(layer.cls_query, cls, group.count, stride, layer.cls_query_bias, query);
    for (std::int64_t h = 0; h < layer.num_live; ++h) {
        project_all(layer.cls_keys[h], query + h * w.head_dim * stride, group.count, stride, nullptr,
                    keys + h * head_stride);
    }
    for (std::int64_t s = 0, first = 0; s < group.count; first += group.lengths[s++]) {
        const std::int64_t length = group.lengths[s];
        const Column column = {keys + s, stride, head_stride};
        score_tokens(column, layer.num_live, w.embed_dim, x + first, work.stride, length, scores, score_stride);
        for (std::int64_t h = 0; h < layer.num_live; ++h) softmax(scores + h * score_stride, length);
        // The keys of this sequence have been used: its means take their place.
        for (std::int64_t h = 0; h < layer.num_live;) {
            const std::int64_t rows = next_rows(layer.num_live - h);
            with_constant<kTileRows>(rows, [&](auto count) {
                weighted_tokens<decltype(count)::value>(scores + h * score_stride, score_stride, x + first,
                                                        work.stride, length, w.embed_dim,
                                                        keys + h * head_stride + s, stride, head_stride);
            });
            h += rows;
        }
    }
    for (std::int64_t h = 0; h < layer.num_live; ++h) {
        project_all(layer.cls_values[h], keys + h * head_stride, group.count, stride,
                    layer.cls_value_bias + h * w.head_dim, context + h * w.head_dim * stride);
    }
    float residual = w.residual;
    if (layer.mean.data != nullptr) {
        // `means` are made of all tokens; their parts are added to the CLS rows as they are to all rows elsewhere.
        collapsed_heads(layer, group.count, space + work.means, space + work.mean_parts, stride);
        const float* parts = space + work.mean_parts;
        for (std::int64_t i = 0; i < w.embed_dim * stride; ++i) cls[i] = residual * cls[i] + parts[i];
        residual = 1.0f;
    }
    finish_layer(w, layer, layer.num_live > 0 ? context : nullptr, residual, cls, group.count, stride,
                 space + work.block);
}

}  // namespace lwm::LWM_ISA
