// Products of small tiles held in registers: the arithmetic of the whole float32 engine.
//
// Tokens lie in the lanes. A matrix of activations has a row for each feature and a column for each token, so a
// vector is one feature of kVectorWidth tokens. Weights are read one number at a time and spread over the lanes.
// Hence a token's result has the same bits in any lane, beside any others; sums over features (Norm) and over keys
// (softmax) need no shuffles; and no width of head or embedding needs padding.
#pragma once

#include "../train_vector.h"
#include "float_kernels.h"

#if defined(LWM_SANITIZE)  // unrolled checks of every access would take an hour to compile
#define LWM_UNROLL
#elif defined(__clang__)
#define LWM_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define LWM_UNROLL _Pragma("GCC unroll 16")
#else
#define LWM_UNROLL
#endif
#if defined(__GNUC__)
#define LWM_INLINE inline __attribute__((always_inline))
#define LWM_PREFETCH(place) __builtin_prefetch(place, 0, 2)
#else
#define LWM_INLINE inline
#define LWM_PREFETCH(place)
#endif

namespace lwm {
namespace {

constexpr std::int64_t kLanes = kVectorWidth;

// Rows and vectors of a tile: its sums, one row of the right side and one spread number fill the registers.
#if LWM_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 3;
constexpr std::int64_t kBlock = kTileVectors * kLanes;  // tokens of a block

// Left sides of products: at(k, row). fetch(k) is called once for each k.
struct Packed {  // weights, kTileRows adjacent rows
    const float* data;
    std::int64_t next;  // where the weights of the next tile begin
    LWM_INLINE float at(std::int64_t k, int row) const { return data[k * kTileRows + row]; }
    // Each tile begins a new page, where the processor's own fetching ahead stops.
    LWM_INLINE void fetch(std::int64_t k) const { LWM_PREFETCH(data + next + k * kTileRows); }
};
struct Transposed {  // keys: the rows of the product are tokens
    const float* data;
    std::int64_t stride;
    LWM_INLINE float at(std::int64_t k, int row) const { return data[k * stride + row]; }
    LWM_INLINE void fetch(std::int64_t) const {}
};
struct Plain {  // values: the sum goes over tokens
    const float* data;
    std::int64_t stride;
    LWM_INLINE float at(std::int64_t k, int row) const { return data[row * stride + k]; }
    LWM_INLINE void fetch(std::int64_t) const {}
};

template <int rows, int vectors>
struct Tile {
    FloatVector sum[rows][vectors];

    LWM_INLINE void clear() {
        LWM_UNROLL
        for (int r = 0; r < rows; ++r) {
            LWM_UNROLL
            for (int v = 0; v < vectors; ++v) sum[r][v] = splat(0.0f);
        }
    }

    // The first `count` rows, from rows of `stride`.
    LWM_INLINE void load_rows(const float* source, std::int64_t stride, std::int64_t count) {
        LWM_UNROLL
        for (int r = 0; r < rows; ++r) {
            if (r >= count) break;
            LWM_UNROLL
            for (int v = 0; v < vectors; ++v) sum[r][v] = load(source + r * stride + v * kLanes);
        }
    }

    // sum += left [rows, depth] x right [depth, vectors], k rising.
    template <typename Left>
    LWM_INLINE void multiply(const Left& left, std::int64_t depth, const float* right, std::int64_t stride) {
        for (std::int64_t k = 0; k < depth; ++k) {
            FloatVector row[vectors];
            left.fetch(k);
            LWM_UNROLL
            for (int v = 0; v < vectors; ++v) row[v] = load(right + k * stride + v * kLanes);
            LWM_UNROLL
            for (int r = 0; r < rows; ++r) {
                const FloatVector spread = splat(left.at(k, r));
                LWM_UNROLL
                for (int v = 0; v < vectors; ++v) sum[r][v] = sum[r][v] + spread * row[v];
            }
        }
    }
};

// Rows of the next tile when `left` are to do: full tiles, but no last tile of very few rows, which would wait for
// its own sums.
LWM_INLINE std::int64_t next_rows(std::int64_t left) {
    if (left <= kTileRows) return left;
    return left >= 2 * kTileRows ? kTileRows : (left + 1) / 2;
}

template <int n>
struct Constant {
    static constexpr int value = n;
};

// Calls body(Constant<n>()) for n in 1..limit.
template <int limit, typename Body>
LWM_INLINE void with_constant(std::int64_t n, const Body& body) {
    if constexpr (limit > 1) {
        if (n < limit) {
            with_constant<limit - 1>(n, body);
            return;
        }
    }
    body(Constant<limit>());
}

// What becomes of a product: relu(sum + bias) + factor * add.
struct Finish {
    const float* bias = nullptr;
    bool relu = false;
    bool onto = false;  // go on from the sums in the target, instead of `bias` or zero
    const float* add = nullptr;
    std::int64_t add_stride = 0;
    float factor = 1.0f;
};

// target [features, vectors] = finish(matrix x right); `first`, `depth`: the columns of the matrix that take part.
template <int vectors>
void project(const PackedMatrix& matrix, std::int64_t first, std::int64_t depth, const float* right,
             std::int64_t stride, const Finish& finish, float* target, std::int64_t target_stride) {
    for (std::int64_t f = 0; f < matrix.features; f += kTileRows) {
        const int rows = static_cast<int>(matrix.features - f < kTileRows ? matrix.features - f : kTileRows);
        Tile<kTileRows, vectors> tile;
        tile.clear();
        if (finish.onto) tile.load_rows(target + f * target_stride, target_stride, rows);
        const Packed left = {matrix.data + f * matrix.depth + first * kTileRows, matrix.depth * kTileRows};
        tile.multiply(left, depth, right, stride);
        LWM_UNROLL
        for (int r = 0; r < kTileRows; ++r) {
            if (r >= rows) break;
            const FloatVector bias = splat(finish.bias != nullptr ? finish.bias[f + r] : 0.0f);
            LWM_UNROLL
            for (int v = 0; v < vectors; ++v) {
                FloatVector value = tile.sum[r][v] + bias;
                if (finish.relu) value = larger(value, splat(0.0f));
                if (finish.add != nullptr) {
                    value = value + load(finish.add + (f + r) * finish.add_stride + v * kLanes) * splat(finish.factor);
                }
                store(target + (f + r) * target_stride + v * kLanes, value);
            }
        }
    }
}

// The first `count` lanes, zeros in the others: never reads beyond them.
LWM_INLINE FloatVector load_part(const float* source, std::int64_t count) {
    float lanes[kLanes] = {};
    for (std::int64_t l = 0; l < count; ++l) lanes[l] = source[l];
    return load(lanes);
}

LWM_INLINE void store_part(float* target, const FloatVector& vector, std::int64_t count) {
    float lanes[kLanes];
    store(lanes, vector);
    for (std::int64_t l = 0; l < count; ++l) target[l] = lanes[l];
}

// Sum of `count` values, in lanes that begin at the first: the same bits wherever the values lie.
LWM_INLINE float sum_values(const float* values, std::int64_t count) {
    FloatVector total = splat(0.0f);
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) total = total + load(values + i);
    if (i < count) total = total + load_part(values + i, count - i);
    return sum_lanes(total);
}

// Calls body(first vector's token, Constant<vectors of this block>) for blocks that cover `tokens` columns.
template <typename Body>
LWM_INLINE void for_blocks(std::int64_t tokens, const Body& body) {
    std::int64_t vectors = (tokens + kLanes - 1) / kLanes;
    for (std::int64_t first = 0; vectors > 0;) {
        const std::int64_t now = vectors == 4 ? 2 : (vectors < kTileVectors ? vectors : kTileVectors);
        with_constant<kTileVectors>(now, [&](auto width) { body(first, width); });
        first += now * kLanes;
        vectors -= now;
    }
}

}  // namespace
}  // namespace lwm
