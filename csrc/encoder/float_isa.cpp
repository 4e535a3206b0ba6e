// A group of sequences from tokens to pooled rows, and the table of this instruction set.
#include "float_work.h"

namespace lwm::LWM_ISA {

extern const FloatKernels kFloatEncoder;

namespace {

// Calls body(sequence number, Sequence) for each.
template <typename Body>
void each_sequence(const Group& group, const Body& body) {
    for (std::int64_t s = 0, first = 0; s < group.count; first += group.lengths[s++]) {
        body(s, Sequence{first, group.lengths[s]});
    }
}

void attention(const FloatWeights& w, const FloatLayer& layer, const Group& group, const Work& work, float* space) {
    float *x = space + work.x, *qkv = space + work.qkv;
    const std::int64_t stride = work.stride;
    for (std::int64_t head = 0, pass = 0; head < layer.num_live; head += w.heads_per_pass, ++pass) {
        const std::int64_t left = layer.num_live - head;
        const std::int64_t heads = left < w.heads_per_pass ? left : w.heads_per_pass;
        const PackedMatrix& matrix = layer.passes[pass];
        Finish finish;
        finish.bias = layer.pass_biases[pass];
        for_blocks(group.rows, [&](std::int64_t first, auto width) {
            project<decltype(width)::value>(matrix, 0, matrix.depth, x + first, stride, finish, qkv + first, stride);
        });
        float* context = space + work.context + head * w.head_dim * stride;
        each_sequence(group, [&](std::int64_t, const Sequence& sequence) {
            attend(heads, w.head_dim, qkv, context, stride, sequence, space + work.scores, space + work.queries);
        });
    }
}

// x = residual x + what collapsed heads add to all tokens of a sequence.
void add_parts(const FloatWeights& w, const Group& group, const Work& work, float* space) {
    for (std::int64_t f = 0; f < w.embed_dim; ++f) {
        each_sequence(group, [&](std::int64_t s, const Sequence& sequence) {
            const float part = space[work.mean_parts + f * work.cls_stride + s];
            float* row = space + work.x + f * work.stride + sequence.first;
            for (std::int64_t t = 0; t < sequence.length; ++t) row[t] = w.residual * row[t] + part;
        });
    }
}

void whole_layer(const FloatWeights& w, const FloatLayer& layer, const Group& group, const Work& work, float* space) {
    float residual = w.residual;
    attention(w, layer, group, work, space);
    if (layer.mean.data != nullptr) {
        collapsed_heads(layer, group.count, space + work.means, space + work.mean_parts, work.cls_stride);
        add_parts(w, group, work, space);
        residual = 1.0f;
    }
    finish_layer(w, layer, layer.num_live > 0 ? space + work.context : nullptr, residual, space + work.x, group.rows,
                 work.stride, space + work.block);
}

// Rows of tokens first .. first + count of columns that are `stride` apart.
void write_rows(const float* columns, std::int64_t stride, std::int64_t features, std::int64_t count, float* out) {
    for (std::int64_t t = 0; t < count; t += kLineFloats) {
        const std::int64_t last = count - t < kLineFloats ? count - t : kLineFloats;
        for (std::int64_t i = 0; i < last; ++i) {
            for (std::int64_t f = 0; f < features; ++f) out[(t + i) * features + f] = columns[f * stride + t + i];
        }
    }
}

void write_pooled(const FloatWeights& w, const Group& group, const Work& work, Pool pool, const float* space,
                  float* out) {
    const float* x = space + work.x;
    if (pool == Pool::cls) {
        write_rows(space + work.cls, work.cls_stride, w.embed_dim, group.count, out);
        return;
    }
    const std::int64_t skipped = pool == Pool::mean || pool == Pool::patches ? 1 : 0;
    each_sequence(group, [&](std::int64_t s, const Sequence& sequence) {
        const std::int64_t first = sequence.first + skipped, count = sequence.length - skipped;
        if (pool == Pool::patches || pool == Pool::tokens) {
            write_rows(x + first, work.stride, w.embed_dim, count, out);
            out += count * w.embed_dim;
            return;
        }
        for (std::int64_t f = 0; f < w.embed_dim; ++f) {
            out[s * w.embed_dim + f] = sum_values(x + f * work.stride + first, count) / static_cast<float>(count);
        }
    });
}

std::int64_t scratch_floats(const FloatWeights& weights, const Group& group) { return Work(weights, group).total; }

void encode_group(const FloatWeights& w, const Group& group, const float* tokens, Pool pool, float* out,
                  float* space) {
    const Work work(w, group);
    embed_tokens(w, group, tokens, space + work.x, work.stride, space + work.block);
    for (std::int64_t i = 0; i < w.num_layers; ++i) {
        const FloatLayer& layer = w.layers[i];
        if (layer.mean.data != nullptr) {
            mean_tokens(w.embed_dim, group, space + work.x, work.stride, space + work.means, work.cls_stride);
        }
        if (pool == Pool::cls && i + 1 == w.num_layers) {
            cls_layer(w, layer, group, work, space);
        } else {
            whole_layer(w, layer, group, work, space);
        }
    }
    write_pooled(w, group, work, pool, space, out);
}

}  // namespace

const FloatKernels kFloatEncoder = {kLanes, kTileRows, scratch_floats, encode_group};

}  // namespace lwm::LWM_ISA
