// Attention of one sequence, forward and backward, without its weights ever in memory.
//
// LWM's heads hold 5 or 16 values, so whole vectors of queries (forward) or keys (backward) go side by side through
// the lanes, their values in registers, and the other side is read one number at a time. Scores are made again in
// backward from the maximum and the sum that forward keeps of each query.
#include <cmath>

#include "train_vector.h"
#include "training_kernels.h"

namespace lwm::LWM_ISA {

void attention_forward(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out,
                       float* stats, std::int64_t sequence, float* scratch);
void attention_backward(const AttentionSizes& sizes, const float* qkv, const float* bias, const float* out,
                        const float* stats, const float* dout, float* dqkv, float* sums,
                        std::int64_t sequence, float* scratch);
bool attends(std::int64_t head_dim);
std::int64_t attention_scratch(const AttentionSizes& sizes);

namespace {

constexpr std::int64_t kLanes = kVectorWidth;

// Parts of the work space begin at whole cache lines: rows of a vector each would straddle two otherwise.
constexpr std::int64_t kLine = 16;
inline std::int64_t whole(std::int64_t floats, std::int64_t unit) { return (floats + unit - 1) / unit * unit; }

// Hands out the work space.
struct Scratch {
    float* next;
    float* take(std::int64_t floats) {
        float* part = next;
        next += whole(floats, kLine);
        return part;
    }
};

// (rows[i][head][c] + shift[head][c]) * scale of one sequence, head after head, `part` floats apart. The rows are
// read in their order: a head's own values alone are too far apart to be fetched ahead.
template <int d>
void unpack(const float* rows, std::int64_t stride, std::int64_t length, std::int64_t num_heads,
            const float* shift, float scale, float* __restrict out, std::int64_t part) {
    for (std::int64_t i = 0; i < length; ++i) {
        for (std::int64_t h = 0; h < num_heads; ++h) {
            const float* row = rows + i * stride + h * d;
            for (int c = 0; c < d; ++c) out[h * part + i * d + c] = (row[c] + shift[h * d + c]) * scale;
        }
    }
}

// Rows first .. first + kLanes of packed [length, d], one vector a column; rows beyond the length are zero.
template <int d>
inline void columns(const float* packed, std::int64_t first, std::int64_t length, FloatVector (&out)[d]) {
    alignas(64) float lanes[d][kLanes];
    const float* rows = packed + first * d;
    if (first + kLanes <= length) {
        for (std::int64_t l = 0; l < kLanes; ++l) {
            for (int c = 0; c < d; ++c) lanes[c][l] = rows[l * d + c];
        }
    } else {
        for (std::int64_t l = 0; l < kLanes; ++l) {
            for (int c = 0; c < d; ++c) lanes[c][l] = first + l < length ? rows[l * d + c] : 0.0f;
        }
    }
    for (int c = 0; c < d; ++c) out[c] = load(lanes[c]);
}

// The inverse, into rows of `stride`; what lies beyond the length is dropped.
template <int d>
inline void scatter(const FloatVector (&vectors)[d], float* rows, std::int64_t stride, std::int64_t first,
                    std::int64_t length) {
    alignas(64) float lanes[d][kLanes];
    for (int c = 0; c < d; ++c) store(lanes[c], vectors[c]);
    const std::int64_t left = length - first < kLanes ? length - first : kLanes;
    for (std::int64_t l = 0; l < left; ++l) {
        for (int c = 0; c < d; ++c) rows[(first + l) * stride + c] = lanes[c][l];
    }
}

template <int d>
inline FloatVector dot(const FloatVector (&columns_)[d], const float* row) {
    FloatVector sum = columns_[0] * splat(row[0]);
    for (int c = 1; c < d; ++c) sum = sum + columns_[c] * splat(row[c]);
    return sum;
}

// One head: q, k, v packed [length, d], out rows of `stride`; weights [length, kLanes] is work space.
template <int d>
void head_forward(const float* q, const float* k, const float* v, std::int64_t length, float* weights,
                  float* out, std::int64_t stride, float* stats) {
    for (std::int64_t first = 0; first < length; first += kLanes) {
        FloatVector query[d];
        columns<d>(q, first, length, query);
        FloatVector highest = splat(-INFINITY);
        for (std::int64_t j = 0; j < length; ++j) {
            const FloatVector score = dot<d>(query, k + j * d);
            highest = larger(highest, score);
            store(weights + j * kLanes, score);
        }
        FloatVector total = splat(0.0f), values[d];
        for (int c = 0; c < d; ++c) values[c] = splat(0.0f);
        for (std::int64_t j = 0; j < length; ++j) {
            const FloatVector weight = exp_negative(load(weights + j * kLanes) - highest);
            total = total + weight;
            for (int c = 0; c < d; ++c) values[c] = values[c] + weight * splat(v[j * d + c]);
        }
        const FloatVector inverse = splat(1.0f) / total;
        for (int c = 0; c < d; ++c) values[c] = values[c] * inverse;
        scatter<d>(values, out, stride, first, length);
        float lanes[2][kLanes];
        store(lanes[0], highest);
        store(lanes[1], inverse);
        for (std::int64_t l = 0; l < kLanes && first + l < length; ++l) {
            stats[first + l] = lanes[0][l];
            stats[length + first + l] = lanes[1][l];
        }
    }
}

template <int d>
void forward(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out, float* stats,
             std::int64_t sequence, float* scratch) {
    const std::int64_t length = sizes.seq_len, heads = sizes.num_heads, width = heads * d;
    const std::int64_t part = whole(length * d, kLine);
    Scratch space = {scratch};
    float* q = space.take(heads * part);
    float* k = space.take(heads * part);
    float* v = space.take(heads * part);
    float* weights = space.take(length * kLanes);
    const float* rows = qkv + sequence * length * 3 * width;
    unpack<d>(rows, 3 * width, length, heads, bias, 1.0f / std::sqrt(static_cast<float>(d)), q, part);
    unpack<d>(rows + width, 3 * width, length, heads, bias + width, 1.0f, k, part);
    unpack<d>(rows + 2 * width, 3 * width, length, heads, bias + 2 * width, 1.0f, v, part);
    for (std::int64_t h = 0; h < heads; ++h) {
        head_forward<d>(q + h * part, k + h * part, v + h * part, length, weights,
                        out + sequence * length * width + h * d, width,
                        stats + (sequence * heads + h) * 2 * length);
    }
}

// dq[i] += sum over the tile's keys of dscore[i, key] k[key]: d padded to whole vectors.
template <int d>
void add_to_queries(const float* dscores, const float* keys, std::int64_t length, float* dq) {
    constexpr int kVectors = (d + kVectorWidth - 1) / kVectorWidth;
    for (std::int64_t i = 0; i < length; ++i) {
        float* target = dq + i * kVectors * kLanes;
        FloatVector even[kVectors], odd[kVectors];  // two chains: one would wait for itself
        for (int n = 0; n < kVectors; ++n) {
            even[n] = load(target + n * kLanes);
            odd[n] = splat(0.0f);
        }
        for (std::int64_t l = 0; l < kLanes; l += 2) {
            const FloatVector a = splat(dscores[i * kLanes + l]), b = splat(dscores[i * kLanes + l + 1]);
            for (int n = 0; n < kVectors; ++n) {
                even[n] = even[n] + a * load(keys + (l * kVectors + n) * kLanes);
                odd[n] = odd[n] + b * load(keys + ((l + 1) * kVectors + n) * kLanes);
            }
        }
        for (int n = 0; n < kVectors; ++n) store(target + n * kLanes, even[n] + odd[n]);
    }
}

// sum over queries i of weights[i] (a vector of keys) * rows[i][c].
template <int d>
inline void add_rows(const float* weights, const float* rows, std::int64_t length, FloatVector (&out)[d]) {
    for (int c = 0; c < d; ++c) out[c] = splat(0.0f);
    for (std::int64_t i = 0; i < length; ++i) {
        const FloatVector weight = load(weights + i * kLanes);
        for (int c = 0; c < d; ++c) out[c] = out[c] + weight * splat(rows[i * d + c]);
    }
}

// What backward of one head reads and writes; packed arrays are [length, d].
struct HeadBackward {
    const float *q, *k, *v, *g;     // g: the gradient of the values
    const float* dots;              // g . values of each query
    const float* stats;
    float *weights, *dscores;       // [length, kLanes] of the keys in the lanes
    float* dq;                      // [length, d in whole vectors], zero at first
    float* keys;                    // [kLanes, d in whole vectors], the tile's keys
    float *dk, *dv;                 // rows of `stride`
    std::int64_t length, stride;
};

template <int d>
void head_backward(const HeadBackward& op) {
    constexpr std::int64_t kWide = (d + kVectorWidth - 1) / kVectorWidth * kLanes;
    const std::int64_t length = op.length;
    for (std::int64_t first = 0; first < length; first += kLanes) {
        FloatVector tile[d];
        columns<d>(op.k, first, length, tile);
        for (std::int64_t i = 0; i < length; ++i) {
            const FloatVector score = dot<d>(tile, op.q + i * d) - splat(op.stats[i]);
            store(op.weights + i * kLanes, exp_negative(score) * splat(op.stats[length + i]));
        }
        columns<d>(op.v, first, length, tile);
        for (std::int64_t i = 0; i < length; ++i) {
            const FloatVector dweight = dot<d>(tile, op.g + i * d) - splat(op.dots[i]);
            store(op.dscores + i * kLanes, load(op.weights + i * kLanes) * dweight);
        }
        add_rows<d>(op.weights, op.g, length, tile);
        scatter<d>(tile, op.dv, op.stride, first, length);
        add_rows<d>(op.dscores, op.q, length, tile);
        scatter<d>(tile, op.dk, op.stride, first, length);
        for (std::int64_t l = 0; l < kLanes; ++l) {
            for (std::int64_t c = 0; c < kWide; ++c) {
                op.keys[l * kWide + c] = c < d && first + l < length ? op.k[(first + l) * d + c] : 0.0f;
            }
        }
        add_to_queries<d>(op.dscores, op.keys, length, op.dq);
    }
}

// rows[i][c] *= scale of `width` columns, then their sums over i.
void scale_and_sum(float* rows, std::int64_t stride, std::int64_t length, std::int64_t width, float scale,
                   float* sums) {
    for (std::int64_t c = 0; c < width; ++c) sums[c] = 0.0f;
    for (std::int64_t i = 0; i < length; ++i) {
        float* row = rows + i * stride;
        for (std::int64_t c = 0; c < width; ++c) {
            row[c] *= scale;
            sums[c] += row[c];
        }
    }
}

template <int d>
void backward(const AttentionSizes& sizes, const float* qkv, const float* bias, const float* out,
              const float* stats, const float* dout, float* dqkv, float* sums, std::int64_t sequence,
              float* scratch) {
    constexpr std::int64_t kWide = (d + kVectorWidth - 1) / kVectorWidth * kLanes;
    const std::int64_t length = sizes.seq_len, heads = sizes.num_heads, width = heads * d;
    const std::int64_t part = whole(length * d, kLine), stride = 3 * width;
    const float scale = 1.0f / std::sqrt(static_cast<float>(d));
    Scratch space = {scratch};
    float* q = space.take(heads * part);
    float* k = space.take(heads * part);
    float* v = space.take(heads * part);
    float* g = space.take(heads * part);
    float* dots = space.take(heads * length);
    HeadBackward op = {};
    op.weights = space.take(length * kLanes);
    op.dscores = space.take(length * kLanes);
    op.dq = space.take(length * kWide);
    op.keys = space.take(kLanes * kWide);
    op.length = length;
    op.stride = stride;
    const float* rows = qkv + sequence * length * stride;
    unpack<d>(rows, stride, length, heads, bias, scale, q, part);
    unpack<d>(rows + width, stride, length, heads, bias + width, 1.0f, k, part);
    unpack<d>(rows + 2 * width, stride, length, heads, bias + 2 * width, 1.0f, v, part);
    const float* values = out + sequence * length * width;
    const float* gradient = dout + sequence * length * width;
    for (std::int64_t i = 0; i < length; ++i) {
        for (std::int64_t h = 0; h < heads; ++h) {
            float sum = 0.0f;
            for (int c = 0; c < d; ++c) {
                const std::int64_t at = i * width + h * d + c;
                g[h * part + i * d + c] = gradient[at];
                sum += gradient[at] * values[at];
            }
            dots[h * length + i] = sum;
        }
    }
    float* target = dqkv + sequence * length * stride;
    for (std::int64_t h = 0; h < heads; ++h) {
        op.q = q + h * part;
        op.k = k + h * part;
        op.v = v + h * part;
        op.g = g + h * part;
        op.dots = dots + h * length;
        op.stats = stats + (sequence * heads + h) * 2 * length;
        op.dk = target + width + h * d;
        op.dv = target + 2 * width + h * d;
        for (std::int64_t i = 0; i < length * kWide; ++i) op.dq[i] = 0.0f;
        head_backward<d>(op);
        for (std::int64_t i = 0; i < length; ++i) {
            for (int c = 0; c < d; ++c) target[i * stride + h * d + c] = op.dq[i * kWide + c];
        }
    }
    scale_and_sum(target, stride, length, width, scale, sums);
    scale_and_sum(target + width, stride, length, 2 * width, 1.0f, sums + width);
}

}  // namespace

bool attends(std::int64_t head_dim) { return head_dim == 5 || head_dim == 16; }

std::int64_t attention_scratch(const AttentionSizes& sizes) {
    const std::int64_t length = sizes.seq_len, heads = sizes.num_heads;
    const std::int64_t wide = whole(sizes.head_dim, kLanes);
    return 4 * heads * whole(length * sizes.head_dim, kLine) + whole(heads * length, kLine) +
           2 * whole(length * kLanes, kLine) + whole(length * wide, kLine) + whole(kLanes * wide, kLine);
}

void attention_forward(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out,
                       float* stats, std::int64_t sequence, float* scratch) {
    const auto run = sizes.head_dim == 5 ? forward<5> : forward<16>;
    run(sizes, qkv, bias, out, stats, sequence, scratch);
}

void attention_backward(const AttentionSizes& sizes, const float* qkv, const float* bias, const float* out,
                        const float* stats, const float* dout, float* dqkv, float* sums,
                        std::int64_t sequence, float* scratch) {
    const auto run = sizes.head_dim == 5 ? backward<5> : backward<16>;
    run(sizes, qkv, bias, out, stats, dout, dqkv, sums, sequence, scratch);
}

}  // namespace lwm::LWM_ISA
