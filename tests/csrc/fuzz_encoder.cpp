// The encoder on random sizes of model, sequences of 1 to 513 tokens and hostile bounds.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "encoder/engine.h"
#include "encoder/table.h"
#include "fuzz.h"

namespace fuzz {
namespace {

using lwm::Pool;

// A model of random sizes and weights. The version only says how long patches are.
struct Model {
    std::vector<std::vector<float>> memory;
    lwm::EncoderView view = {};

    const float* take(Random& random, std::int64_t count) {
        return memory.emplace_back(random.reals(count, -0.3f, 0.3f)).data();
    }
    lwm::NormView norm(Random& random) { return {take(random, view.embed_dim), take(random, view.embed_dim)}; }
};

void add_layer(Model& model, Random& random) {
    const std::int64_t dim = model.view.embed_dim, ffn = model.view.ffn_dim;
    lwm::LayerView layer = {};
    layer.num_live = random.integer(0, 4);
    const std::int64_t width = layer.num_live * model.view.head_dim;
    layer.qkv = model.take(random, 3 * width * dim);
    layer.qkv_bias = model.take(random, 3 * width);
    layer.out = model.take(random, dim * width);
    layer.out_bias = model.take(random, dim);
    layer.mean = random.integer(0, 1) == 0 ? nullptr : model.take(random, dim * dim);
    layer.fc1 = model.take(random, ffn * dim);
    layer.fc1_bias = model.take(random, ffn);
    layer.fc2 = model.take(random, dim * ffn);
    layer.fc2_bias = model.take(random, dim);
    layer.norm1 = model.norm(random);
    if (random.integer(0, 1) == 0) layer.norm2 = model.norm(random);
    model.view.layers.push_back(layer);
}

Model random_model(Random& random, TokenVersion version, std::int64_t max_len) {
    Model model;
    model.view.patch_len = lwm::patch_length(version);
    model.view.embed_dim = random.integer(2, 40);
    model.view.head_dim = random.integer(1, 20);
    model.view.ffn_dim = random.integer(1, 300);
    model.view.max_len = max_len;
    model.view.residual = random.integer(0, 1) == 0 ? 1.0f : 2.0f;
    model.view.proj = model.take(random, model.view.embed_dim * model.view.patch_len);
    model.view.position = model.take(random, max_len * model.view.embed_dim);
    model.view.norm = model.norm(random);
    const std::int64_t layers = random.integer(1, 3);
    for (std::int64_t i = 0; i < layers; ++i) add_layer(model, random);
    return model;
}

struct Encoded {
    std::vector<float> out;
    lwm::EncodeTask task;
};

Encoded output_of(const lwm::EncoderView& view, Pool pool, const std::vector<std::int32_t>& bounds, int threads) {
    Encoded encoded = {{}, {pool, nullptr, 0, view.max_len, view.patch_len, view.embed_dim, threads}};
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
        encoded.task.out_rows += lwm::pooled_rows(pool, bounds[i + 1] - bounds[i]);
    }
    encoded.out = poisoned(encoded.task.out_rows * view.embed_dim);
    encoded.task.out = encoded.out.data();
    return encoded;
}

bool same_bits(const float* a, const float* b, std::int64_t count) {
    return count == 0 || std::memcmp(a, b, sizeof(float) * static_cast<std::size_t>(count)) == 0;
}

}  // namespace

void encoding(Random& random) {
    const auto pool = static_cast<Pool>(random.integer(0, 4));
    std::vector<std::int32_t> bounds{0};
    const std::int64_t count = random.integer(0, 5), longest = random.integer(0, 9) == 0 ? 513 : 90;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t shortest = pool == Pool::mean ? 2 : 1;
        bounds.push_back(bounds.back() + static_cast<std::int32_t>(random.integer(shortest, longest)));
    }
    Model model = random_model(random, TokenVersion::v1_1, 513);
    const auto encoder = lwm::choose_encoder("float32", "").make(model.view);
    const std::int64_t patch_len = model.view.patch_len;
    model.memory.clear();  // the encoder has its own copies
    const std::vector<float> tokens = random.reals(bounds.back() * patch_len, -5.0f, 5.0f);
    Encoded all = output_of(model.view, pool, bounds, static_cast<int>(random.integer(1, 4)));
    lwm::encode_tokens(*encoder, all.task, tokens.data(), bounds.back(), bounds.data(), count);
    for (const float value : all.out) require(std::isfinite(value), "encode left a value unwritten");
    const float* place = all.out.data();
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
        const std::int32_t length = bounds[i + 1] - bounds[i], alone[] = {0, length};
        Encoded one = output_of(model.view, pool, {0, length}, 1);
        const auto first = tokens.begin() + bounds[i] * patch_len;
        const std::vector<float> mine(first, first + length * patch_len);
        lwm::encode_tokens(*encoder, one.task, mine.data(), length, alone, 1);
        const auto values = static_cast<std::int64_t>(one.out.size());
        require(same_bits(one.out.data(), place, values), "a result depends on the sequences beside it");
        place += values;
    }
    Encoded other = output_of(model.view, pool, bounds, 1);
    other.task.out_rows += 1;
    require_refusal(
        [&] { lwm::encode_tokens(*encoder, other.task, tokens.data(), bounds.back(), bounds.data(), count); },
        "encode accepts an output of another size");
    other.task.out_rows -= 1;
    other.task.max_len = 1;
    if (count > 0) {
        require_refusal(
            [&] { lwm::encode_tokens(*encoder, other.task, tokens.data(), bounds.back(), bounds.data(), count); },
            "encode accepts sequences beyond max_len");
    }
}

// Channels of any size, odd ones too, and packings with a changed entry: refused, or harmless to the exact buffers.
void channel_encoding(Random& random, TokenVersion version) {
    Batch batch = random_batch(random, version);
    std::int32_t longest = 1;
    for (std::size_t i = 0; i + 1 < batch.cu_seqlens.size(); ++i) {
        longest = std::max(longest, batch.cu_seqlens[i + 1] - batch.cu_seqlens[i]);
    }
    const Model model = random_model(random, version, longest);
    const auto encoder = lwm::choose_encoder("float32", "").make(model.view);
    const std::vector<float> csi = random.reals(2 * batch.offsets.back(), -1.0f, 1.0f);
    const std::vector<float> cls(static_cast<std::size_t>(model.view.patch_len), 0.2f);
    const float scale = 2.0f;
    Encoded encoded = output_of(model.view, Pool::cls, batch.cu_seqlens, static_cast<int>(random.integer(1, 3)));
    const auto run = [&] {
        lwm::encode_channels(*encoder, encoded.task, csi.data(), static_cast<std::int64_t>(csi.size()) / 2,
                             batch.view(), {&scale, true}, {cls.data(), true}, version);
    };
    run();
    for (const float value : encoded.out) require(std::isfinite(value), "encode left a row unwritten");
    const std::int64_t choices[] = {-1, 0, 1, random.integer(-100, 100000), 2147483647};
    const std::int64_t value = choices[random.integer(0, 4)];
    const auto entry = static_cast<std::size_t>(
        random.integer(0, static_cast<std::int64_t>(batch.cu_seqlens.size()) - 1));
    if (random.integer(0, 1) == 0) {
        batch.cu_seqlens[entry] = static_cast<std::int32_t>(value);
    } else {
        batch.offsets[entry] = value;
    }
    try {
        run();
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace fuzz
