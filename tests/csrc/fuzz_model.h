// An encoder of random weights: the caller says its sizes, then fills it.
#pragma once

#include "encoder/engine.h"
#include "fuzz.h"

namespace fuzz {

struct Model {
    std::vector<std::vector<float>> memory;
    lwm::EncoderView view = {};

    const float* take(Random& random, std::int64_t count) {
        return memory.emplace_back(random.reals(count, -0.3f, 0.3f)).data();
    }
    lwm::NormView norm(Random& random) { return {take(random, view.embed_dim), take(random, view.embed_dim)}; }

    void add_layer(Random& random) {
        const std::int64_t dim = view.embed_dim, ffn = view.ffn_dim;
        lwm::LayerView layer = {};
        layer.num_live = random.integer(0, 4);
        const std::int64_t width = layer.num_live * view.head_dim;
        layer.qkv = take(random, 3 * width * dim);
        layer.qkv_bias = take(random, 3 * width);
        layer.out = take(random, dim * width);
        layer.out_bias = take(random, dim);
        layer.mean = random.integer(0, 1) == 0 ? nullptr : take(random, dim * dim);
        layer.fc1 = take(random, ffn * dim);
        layer.fc1_bias = take(random, ffn);
        layer.fc2 = take(random, dim * ffn);
        layer.fc2_bias = take(random, dim);
        layer.norm1 = norm(random);
        if (random.integer(0, 1) == 0) layer.norm2 = norm(random);
        view.layers.push_back(layer);
    }

    // Everything but the sizes.
    void fill(Random& random, std::int64_t layers) {
        view.residual = random.integer(0, 1) == 0 ? 1.0f : 2.0f;
        view.proj = take(random, view.embed_dim * view.patch_len);
        view.position = take(random, view.num_positions * view.embed_dim);
        view.norm = norm(random);
        for (std::int64_t i = 0; i < layers; ++i) add_layer(random);
    }
};

}  // namespace fuzz
