// The encoder on random sizes of model, sequences of 1 to 513 tokens and hostile bounds.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "encoder/engine.h"
#include "encoder/table.h"
#include "fuzz_model.h"

namespace fuzz {
namespace {

using lwm::Pool;

// The version only says how long patches are.
Model random_model(Random& random, TokenVersion version, std::int64_t max_len) {
    Model model;
    model.view.patch_len = lwm::patch_length(version);
    model.view.embed_dim = random.integer(2, 40);
    model.view.head_dim = random.integer(1, 20);
    model.view.ffn_dim = random.integer(1, 300);
    model.view.num_positions = max_len;
    model.fill(random, random.integer(1, 3));
    return model;
}

struct Encoded {
    std::vector<float> out;
    lwm::EncodeTask task;
};

Encoded output_of(const lwm::EncoderView& view, Pool pool, const std::vector<std::int32_t>& bounds, int threads) {
    Encoded encoded = {{}, {pool, nullptr, 0, view.num_positions, view.patch_len, view.embed_dim, threads}};
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
    lwm::encode_tokens(*encoder, all.task, tokens.data(), bounds.back(), bounds.data(), count, nullptr);
    for (const float value : all.out) require(std::isfinite(value), "encode left a value unwritten");
    const float* place = all.out.data();
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
        const std::int32_t length = bounds[i + 1] - bounds[i], alone[] = {0, length};
        Encoded one = output_of(model.view, pool, {0, length}, 1);
        const auto first = tokens.begin() + bounds[i] * patch_len;
        const std::vector<float> mine(first, first + length * patch_len);
        lwm::encode_tokens(*encoder, one.task, mine.data(), length, alone, 1, nullptr);
        const auto values = static_cast<std::int64_t>(one.out.size());
        require(same_bits(one.out.data(), place, values), "a result depends on the sequences beside it");
        place += values;
    }
    Encoded other = output_of(model.view, pool, bounds, 1);
    other.task.out_rows += 1;
    require_refusal(
        [&] { lwm::encode_tokens(*encoder, other.task, tokens.data(), bounds.back(), bounds.data(), count, nullptr); },
        "encode accepts an output of another size");
    other.task.out_rows -= 1;
    other.task.max_len = 1;
    if (count > 0) {
        require_refusal(
            [&] {
                lwm::encode_tokens(*encoder, other.task, tokens.data(), bounds.back(), bounds.data(), count, nullptr);
            },
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
