#include "float_encoder.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <vector>

namespace lwm {
namespace {

constexpr std::int64_t kGroupRows = 528;     // their activations lie in the second level of cache
constexpr std::int64_t kPassFeatures = 64;   // queries, keys and values made together, about as many
constexpr std::size_t kLineFloats = 16;

// Arrays of floats that begin at cache lines and live as long as their encoder.
class Storage {
public:
    float* take(std::int64_t floats) {
        auto& block = blocks_.emplace_back(static_cast<std::size_t>(floats) + kLineFloats, 0.0f);
        void* start = block.data();
        std::size_t bytes = block.size() * sizeof(float);
        return static_cast<float*>(std::align(kLineFloats * sizeof(float), sizeof(float), start, bytes));
    }

private:
    std::deque<std::vector<float>> blocks_;
};

class FloatEncoder final : public Encoder {
public:
    FloatEncoder(const FloatKernels& kernels, const EncoderView& view) : kernels_(kernels), view_(view) {
        weights_.patch_len = view.patch_len;
        weights_.embed_dim = view.embed_dim;
        weights_.head_dim = view.head_dim;
        weights_.ffn_dim = view.ffn_dim;
        weights_.num_positions = view.num_positions;
        weights_.max_rows = view.max_rows;
        weights_.residual = view.residual;
        weights_.heads_per_pass = std::max<std::int64_t>(1, kPassFeatures / (3 * view.head_dim));
        for (const LayerView& layer : view.layers) {
            weights_.most_live = std::max(weights_.most_live, layer.num_live);
        }
        weights_.heads_per_pass = std::min(weights_.heads_per_pass, std::max<std::int64_t>(1, weights_.most_live));
        weights_.proj = pack(view.proj, view.embed_dim, view.patch_len);
        weights_.position = transposed(view.position, view.num_positions, view.embed_dim);
        weights_.norm = copy(view.norm);
        for (const LayerView& layer : view.layers) pack_layer(layer);
        weights_.layers = layers_.data();
        weights_.num_layers = static_cast<std::int64_t>(layers_.size());
        view_.layers.clear();
    }

    GroupSize group_size() const override { return {kGroupRows, kernels_.lanes}; }

    std::size_t scratch_bytes(const Group& group) const override {
        return static_cast<std::size_t>(kernels_.scratch_floats(weights_, group)) * sizeof(float);
    }

    void encode(const Group& group, const float* tokens, Pool pool, float* out, std::byte* scratch) const override {
        kernels_.encode_group(weights_, group, tokens, pool, out, reinterpret_cast<float*>(scratch));
    }

private:
    const float* copy(const float* values, std::int64_t count) {
        float* target = storage_.take(count);
        std::copy_n(values, count, target);
        return target;
    }

    NormView copy(const NormView& norm) {
        if (norm.alpha == nullptr) return {nullptr, nullptr};
        return {copy(norm.alpha, view_.embed_dim), copy(norm.bias, view_.embed_dim)};
    }

    const float* transposed(const float* matrix, std::int64_t rows, std::int64_t columns) {
        float* target = storage_.take(rows * columns);
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < columns; ++c) target[c * rows + r] = matrix[r * columns + c];
        }
        return target;
    }

    // matrix [features, depth], row-major.
    PackedMatrix pack(const float* matrix, std::int64_t features, std::int64_t depth) {
        const std::int64_t rows = kernels_.tile_features;
        float* target = storage_.take((features + rows - 1) / rows * rows * depth);
        for (std::int64_t f = 0; f < features; ++f) {
            float* block = target + f / rows * rows * depth + f % rows;
            for (std::int64_t k = 0; k < depth; ++k) block[k * rows] = matrix[f * depth + k];
        }
        return {target, features, depth};
    }

    void pack_layer(const LayerView& view) {
        FloatLayer& layer = layers_.emplace_back();
        const std::int64_t dim = view_.embed_dim, live = view.num_live, width = live * view_.head_dim;
        layer.num_live = live;
        pack_attention(view, layer);
        layer.out = pack(view.out, dim, width);
        if (view.mean != nullptr) layer.mean = pack(view.mean, dim, dim);
        layer.fc1 = pack(view.fc1, view_.ffn_dim, dim);
        layer.fc2 = pack(view.fc2, dim, view_.ffn_dim);
        layer.out_bias = copy(view.out_bias, dim);
        layer.fc1_bias = copy(view.fc1_bias, view_.ffn_dim);
        layer.fc2_bias = copy(view.fc2_bias, dim);
        layer.norm1 = copy(view.norm1);
        layer.norm2 = copy(view.norm2);
    }

    void pack_attention(const LayerView& view, FloatLayer& layer) {
        const std::int64_t dim = view_.embed_dim, live = view.num_live, width = live * view_.head_dim;
        std::vector<float> rows(view.qkv, view.qkv + 3 * width * dim), bias(view.qkv_bias, view.qkv_bias + 3 * width);
        // The softmax takes powers of two; rounded once, from double.
        const double scale = 1.4426950408889634074 / std::sqrt(static_cast<double>(view_.head_dim));
        const auto scaled = [scale](float value) { return static_cast<float>(scale * value); };
        std::transform(rows.begin(), rows.begin() + width * dim, rows.begin(), scaled);
        std::transform(bias.begin(), bias.begin() + width, bias.begin(), scaled);

        auto& passes = passes_.emplace_back();
        auto& pass_biases = pass_biases_.emplace_back();
        for (std::int64_t head = 0; head < live; head += weights_.heads_per_pass) {
            const std::int64_t heads = std::min(weights_.heads_per_pass, live - head);
            const std::int64_t features = heads * view_.head_dim;
            std::vector<float> pass, pass_bias;
            for (std::int64_t part = 0; part < 3; ++part) {
                const std::int64_t first = part * width + head * view_.head_dim;
                pass.insert(pass.end(), rows.begin() + first * dim, rows.begin() + (first + features) * dim);
                pass_bias.insert(pass_bias.end(), bias.begin() + first, bias.begin() + first + features);
            }
            passes.push_back(pack(pass.data(), 3 * features, dim));
            pass_biases.push_back(copy(pass_bias.data(), 3 * features));
        }
        layer.passes = passes.data();
        layer.pass_biases = pass_biases.data();

        auto& keys = passes_.emplace_back();
        auto& values = passes_.emplace_back();
        for (std::int64_t head = 0; head < live; ++head) {
            const float* key = rows.data() + (width + head * view_.head_dim) * dim;
            keys.push_back(pack(transposed(key, view_.head_dim, dim), dim, view_.head_dim));
            values.push_back(pack(rows.data() + (2 * width + head * view_.head_dim) * dim, view_.head_dim, dim));
        }
        layer.cls_query = pack(rows.data(), width, dim);
        layer.cls_query_bias = copy(bias.data(), width);
        layer.cls_keys = keys.data();
        layer.cls_values = values.data();
        layer.cls_value_bias = copy(bias.data() + 2 * width, width);
    }

    const FloatKernels& kernels_;
    EncoderView view_;  // sizes only: the layers' arrays belong to the caller
    Storage storage_;
    std::deque<std::vector<PackedMatrix>> passes_;
    std::deque<std::vector<const float*>> pass_biases_;
    std::vector<FloatLayer> layers_;
    FloatWeights weights_ = {};
};

}  // namespace

std::unique_ptr<Encoder> make_float_encoder(const FloatKernels& kernels, const EncoderView& view) {
    return std::make_unique<FloatEncoder>(kernels, view);
}

}  // namespace lwm
