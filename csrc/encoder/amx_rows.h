// What happens to rows between products: embedding, bias, ReLU, residual, Norm, means, rounding to planes.
#pragma once

#include "amx_product.h"
#include "amx_vectors.h"

namespace {

constexpr float kNormEps = 1e-6f;

// a and b, each of 16 lanes, to adjacent values of kPlanes planes.
template <int kPlanes>
inline void store_planes(Bf16* target, std::int64_t plane, Floats a, Floats b) {
    for (int i = 0; i < kPlanes; ++i) {
        store_bf16(target + i * plane, a, b);
        if (i + 1 < kPlanes) {
            a = a - rounded(a);
            b = b - rounded(b);
        }
    }
}

template <int kPlanes>
inline void store_planes(Bf16* target, std::int64_t plane, Floats a) {
    for (int i = 0; i < kPlanes; ++i) {
        store_bf16(target + i * plane, a);
        if (i + 1 < kPlanes) a = a - rounded(a);
    }
}

// Where rows of tokens are kept: exactly, and rounded for the next product.
struct Target {
    float* exact;
    Bf16* rounded;
    std::int64_t plane;
};

// Up to 32 rows on their way through a Norm. Step by step for all rows: a row alone would wait for its own sums.
struct NormRows {
    float* rows;  // [count, dim]
    std::int64_t count, dim;
    float means[kBlockRows];

    void set_mean(std::int64_t row, Floats sums) {
        means[row] = sum_lanes(sums) * (1.0f / static_cast<float>(dim));
    }
};

// target = the rows.
template <int kPlanes>
inline void store_rows(const NormRows& block, const Target& target) {
    for (std::int64_t at = 0; at < block.count * block.dim; at += 2 * kLanes) {
        const Floats a = load(block.rows + at), b = load(block.rows + at + kLanes);
        store(target.exact + at, a);
        store(target.exact + at + kLanes, b);
        store_planes<kPlanes>(target.rounded + at, target.plane, a, b);
    }
}

// target = the exact Norm of the rows.
template <int kPlanes>
inline void store_norm(const NormRows& block, const lwm::NormView& norm, const Target& target) {
    const std::int64_t dim = block.dim;
    float factors[kBlockRows] = {};
    for (std::int64_t r = 0; r < block.count; ++r) {
        const float* row = block.rows + r * dim;
        const Floats mean = splat(block.means[r]);
        Floats even = splat(0.0f), odd = splat(0.0f);
        for (std::int64_t d = 0; d < dim; d += 2 * kLanes) {
            const Floats a = load(row + d) - mean, b = load(row + d + kLanes) - mean;
            even = fma(a, a, even);
            odd = fma(b, b, odd);
        }
        factors[r] = sum_lanes(even + odd);
    }
    for (std::int64_t r = 0; r < kBlockRows; r += kLanes) {
        const Floats variance = load(factors + r) * splat(1.0f / static_cast<float>(dim - 1));
        store(factors + r, splat(1.0f) / (square_root(variance) + splat(kNormEps)));
    }
    for (std::int64_t r = 0; r < block.count; ++r) {
        const float* row = block.rows + r * dim;
        const Floats mean = splat(block.means[r]), factor = splat(factors[r]);
        for (std::int64_t d = 0; d < dim; d += 2 * kLanes) {
            Floats y[2];
            for (int i = 0; i < 2; ++i) {
                const std::int64_t at = d + i * kLanes;
                y[i] = fma((load(row + at) - mean) * factor, load(norm.alpha + at), load(norm.bias + at));
                store(target.exact + r * dim + at, y[i]);
            }
            store_planes<kPlanes>(target.rounded + r * dim + d, target.plane, y[0], y[1]);
        }
    }
}

// A token's position: one row of the table, or the sum of two (second not null).
struct PositionRows {
    const float *first, *second;
};

// Of token t of a sequence. grid: its rows and columns of patches, null where positions go by token number.
inline PositionRows position_rows(const lwm::AmxWeights& w, const std::int32_t* grid, std::int64_t t) {
    if (grid == nullptr || t == 0) return {w.position + t * w.embed_dim, nullptr};
    const std::int64_t row = (t - 1) / grid[1], column = (t - 1) % grid[1];
    return {w.position + (1 + row) * w.embed_dim, w.position + (1 + w.max_rows + column) * w.embed_dim};
}

// row = proj token + position; gives the sum over the vectors of the row. The projection stays float32: its inputs of
// order 10 do not bear rounding.
inline Floats embed_row(const lwm::AmxWeights& w, const float* token, const PositionRows& position, float* row) {
    const std::int64_t dim = w.embed_dim;
    Floats sums = splat(0.0f);
    for (std::int64_t d = 0; d < dim; d += 2 * kLanes) {
        Floats a = load(position.first + d), b = load(position.first + d + kLanes);
        if (position.second != nullptr) {
            a = a + load(position.second + d);
            b = b + load(position.second + d + kLanes);
        }
        for (std::int64_t k = 0; k < w.patch_len; ++k) {
            const Floats value = splat(token[k]);
            a = fma(value, load(w.proj + k * dim + d), a);
            b = fma(value, load(w.proj + k * dim + d + kLanes), b);
        }
        store(row + d, a);
        store(row + d + kLanes, b);
        sums = sums + (a + b);
    }
    return sums;
}

// row += bias + extra + factor * residual; gives the sum over the vectors of the row. extra: null, or one more bias.
inline Floats add_residual(float* row, std::int64_t dim, const float* bias, const float* extra, float factor,
                           const float* residual) {
    const Floats by = splat(factor);
    Floats sums = splat(0.0f);
    for (std::int64_t d = 0; d < dim; d += kLanes) {
        Floats x = load(row + d) + load(bias + d);
        if (extra != nullptr) x = x + load(extra + d);
        x = fma(by, load(residual + d), x);
        store(row + d, x);
        sums = sums + x;
    }
    return sums;
}

// hidden = relu(sums + bias), 32 rows of 32 columns.
template <int kPlanes>
inline void store_hidden(const float* sums, const float* bias, Bf16* hidden, std::int64_t stride,
                         std::int64_t plane) {
    const Floats zero = splat(0.0f);
    const Floats low = load(bias), high = load(bias + kLanes);
    for (std::int64_t r = 0; r < kBlockRows; ++r) {
        const float* row = sums + r * kPanelColumns;
        store_planes<kPlanes>(hidden + r * stride, plane, larger(zero, load(row) + low),
                              larger(zero, load(row + kLanes) + high));
    }
}

// mean [dim] of `count` rows.
inline void store_mean(const float* rows, std::int64_t count, std::int64_t dim, float* mean) {
    const Floats share = splat(1.0f / static_cast<float>(count));
    for (std::int64_t d = 0; d < dim; d += kLanes) {
        Floats sum = splat(0.0f);
        for (std::int64_t r = 0; r < count; ++r) sum = sum + load(rows + r * dim + d);
        store(mean + d, sum * share);
    }
}

// result [dim] = vector [dim] x matrix [dim, dim].
inline void vector_product(const float* vector, const float* matrix, std::int64_t dim, float* result) {
    for (std::int64_t d = 0; d < dim; d += kLanes) {
        Floats sum = splat(0.0f);
        for (std::int64_t k = 0; k < dim; ++k) sum = fma(splat(vector[k]), load(matrix + k * dim + d), sum);
        store(result + d, sum);
    }
}

// The result of a group from its last tokens; for Pool::cls these are the CLS rows alone.
inline void store_pooled(const float* rows, const lwm::Group& group, std::int64_t dim, lwm::Pool pool, float* out) {
    const auto bytes = [dim](std::int64_t count) { return static_cast<std::size_t>(count * dim) * sizeof(float); };
    if (pool == lwm::Pool::cls || pool == lwm::Pool::tokens) {
        std::memcpy(out, rows, bytes(pool == lwm::Pool::cls ? group.count : group.rows));
        return;
    }
    const std::int64_t skipped = pool == lwm::Pool::mean_with_cls ? 0 : 1;
    for (std::int64_t i = 0; i < group.count; ++i) {
        const std::int64_t length = group.lengths[i];
        if (pool == lwm::Pool::patches) {
            if (length > 1) std::memcpy(out, rows + dim, bytes(length - 1));  // else out may be null
        } else {
            store_mean(rows + skipped * dim, length - skipped, dim, out);
        }
        out += lwm::pooled_rows(pool, length) * dim;
        rows += length * dim;
    }
}

}  // namespace
