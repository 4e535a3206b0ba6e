// Attention of one sequence: a block of queries in the lanes, its scores against a chunk of keys in cache.
//
// Scores are products of powers of two (log2(e) is in the queries). Longer sequences go chunk by chunk, each query
// scaling down what it has when a higher score appears.
#include <cmath>

#include "exponential.h"
#include "float_work.h"

namespace lwm::LWM_ISA {
namespace {

struct Head {
    const float *q, *k, *v;  // [head_dim, stride] from the sequence's first token
    float* context;
    std::int64_t stride, head_dim, length;
};

// scores [keys, kBlock] = keys x queries; returns the highest of each query in `top`.
template <int vectors>
void score_keys(const Head& head, std::int64_t first, std::int64_t keys, const float* queries, float* scores,
                FloatVector (&top)[vectors]) {
    for (std::int64_t j = 0; j < keys;) {
        const std::int64_t rows = next_rows(keys - j);
        with_constant<kTileRows>(rows, [&](auto count) {
            constexpr int kRows = decltype(count)::value;
            Tile<kRows, vectors> tile;
            tile.clear();
            tile.multiply(Transposed{head.k + first + j, head.stride}, head.head_dim, queries, kBlock);
            LWM_UNROLL
            for (int r = 0; r < kRows; ++r) {
                LWM_UNROLL
                for (int v = 0; v < vectors; ++v) {
                    top[v] = larger(top[v], tile.sum[r][v]);
                    store(scores + (j + r) * kBlock + v * kLanes, tile.sum[r][v]);
                }
            }
        });
        j += rows;
    }
}

// sums [head_dim, kBlock] = factor * sums + values x weights, the first time without `sums`.
template <int vectors>
void add_values(const Head& head, std::int64_t first, std::int64_t keys, const float* weights, bool onto,
                const FloatVector (&factor)[vectors], float* sums) {
    for (std::int64_t c = 0; c < head.head_dim;) {
        const std::int64_t rows = next_rows(head.head_dim - c);
        with_constant<kTileRows>(rows, [&](auto count) {
            constexpr int kRows = decltype(count)::value;
            Tile<kRows, vectors> tile;
            tile.clear();
            if (onto) {
                LWM_UNROLL
                for (int r = 0; r < kRows; ++r) {
                    LWM_UNROLL
                    for (int v = 0; v < vectors; ++v) {
                        tile.sum[r][v] = load(sums + (c + r) * kBlock + v * kLanes) * factor[v];
                    }
                }
            }
            tile.multiply(Plain{head.v + c * head.stride + first, head.stride}, keys, weights, kBlock);
            LWM_UNROLL
            for (int r = 0; r < kRows; ++r) {
                LWM_UNROLL
                for (int v = 0; v < vectors; ++v) store(sums + (c + r) * kBlock + v * kLanes, tile.sum[r][v]);
            }
        });
        c += rows;
    }
}

// Queries query .. query + vectors * kLanes of a head; those beyond the sequence are computed and dropped.
template <int vectors>
void attend_block(const Head& head, std::int64_t query, float* scores, float* queries) {
    float* sums = queries + head.head_dim * kBlock;
    for (std::int64_t c = 0; c < head.head_dim; ++c) {
        for (int v = 0; v < vectors; ++v) {
            store(queries + c * kBlock + v * kLanes, load(head.q + c * head.stride + query + v * kLanes));
        }
    }
    FloatVector top[vectors], total[vectors];
    for (int v = 0; v < vectors; ++v) {
        top[v] = splat(-INFINITY);
        total[v] = splat(0.0f);
    }
    const std::int64_t chunk = chunk_keys(head.length);
    for (std::int64_t first = 0; first < head.length; first += chunk) {
        const std::int64_t keys = head.length - first < chunk ? head.length - first : chunk;
        FloatVector factor[vectors];
        for (int v = 0; v < vectors; ++v) factor[v] = top[v];
        score_keys<vectors>(head, first, keys, queries, scores, top);
        for (int v = 0; v < vectors; ++v) {
            factor[v] = power_of_two(factor[v] - top[v]);
            total[v] = total[v] * factor[v];
        }
        for (std::int64_t j = 0; j < keys; ++j) {
            for (int v = 0; v < vectors; ++v) {
                float* place = scores + j * kBlock + v * kLanes;
                const FloatVector weight = power_of_two(load(place) - top[v]);
                total[v] = total[v] + weight;
                store(place, weight);
            }
        }
        add_values<vectors>(head, first, keys, scores, first > 0, factor, sums);
    }
    for (int v = 0; v < vectors; ++v) total[v] = splat(1.0f) / total[v];
    for (int v = 0; v < vectors; ++v) {
        const std::int64_t token = query + v * kLanes, left = head.length - token;
        for (std::int64_t c = 0; c < head.head_dim; ++c) {
            const FloatVector value = load(sums + c * kBlock + v * kLanes) * total[v];
            float* target = head.context + c * head.stride + token;
            if (left >= kLanes) {
                store(target, value);
            } else {
                store_part(target, value, left);
            }
        }
    }
}

}  // namespace

void attend(std::int64_t heads, std::int64_t head_dim, const float* qkv, float* context, std::int64_t stride,
            const Sequence& sequence, float* scores, float* queries) {
    const std::int64_t width = heads * head_dim;
    for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t place = h * head_dim * stride + sequence.first;
        const float *q = qkv + place, *k = q + width * stride, *v = k + width * stride;
        const Head head = {q, k, v, context + place, stride, head_dim, sequence.length};
        for_blocks(sequence.length, [&](std::int64_t query, auto width_of_block) {
            attend_block<decltype(width_of_block)::value>(head, query, scores, queries);
        });
    }
}

}  // namespace lwm::LWM_ISA
