#include "amx_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "amx.h"

namespace lwm {

#ifdef LWM_BUILD_AMX
namespace amx {
const AmxKernels& amx_kernels(const AmxWeights& weights);
}
#endif
#ifdef LWM_BUILD_AMX_EMULATED
namespace amx_emulated {
const AmxKernels& amx_kernels(const AmxWeights& weights);
}
#endif

namespace {

using Choose = const AmxKernels& (*)(const AmxWeights& weights);

constexpr std::int64_t kSlotColumns = 16;  // of a head's queries, keys or values
constexpr std::int64_t kLargestDim = 512;

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Arrays that begin at cache lines and live as long as their encoder.
class Storage {
public:
    template <typename T>
    T* take(std::int64_t count) {
        const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
        return reinterpret_cast<T*>(blocks_.emplace_back((bytes + sizeof(Line) - 1) / sizeof(Line)).data());
    }

private:
    struct alignas(64) Line {
        unsigned char bytes[64] = {};
    };
    std::deque<std::vector<Line>> blocks_;
};

// A matrix [rows, columns] that grows into whatever padding its tiles need.
struct Matrix {
    std::int64_t rows, columns;
    std::vector<float> values;

    Matrix(std::int64_t num_rows, std::int64_t num_columns)
        : rows(num_rows), columns(num_columns), values(static_cast<std::size_t>(num_rows * num_columns), 0.0f) {}
    float& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * columns + c)]; }
};

void check_sizes(const EncoderView& view) {
    const auto refuse = [](const char* what, std::int64_t value, const char* expected) {
        throw std::invalid_argument(std::string(what) + ": got " + std::to_string(value) + ", and AMX takes " +
                                    expected + "; use precision float32");
    };
    if (view.embed_dim % 32 != 0 || view.embed_dim > kLargestDim) {
        refuse("embed_dim", view.embed_dim, "multiples of 32 up to 512");
    }
    if (view.ffn_dim % 32 != 0) refuse("ffn_dim", view.ffn_dim, "multiples of 32");
    if (view.head_dim > kSlotColumns) refuse("head_dim", view.head_dim, "1 to 16");
}

class AmxEncoder final : public Encoder {
public:
    AmxEncoder(const EncoderView& view, int planes, Choose choose) {
        check_sizes(view);
        weights_.patch_len = view.patch_len;
        weights_.embed_dim = view.embed_dim;
        weights_.head_dim = view.head_dim;
        weights_.ffn_dim = view.ffn_dim;
        weights_.num_layers = static_cast<std::int64_t>(view.layers.size());
        weights_.planes = planes;
        weights_.narrow = view.head_dim < kSlotColumns;
        weights_.residual = view.residual;
        weights_.proj = transposed(view.proj, view.embed_dim, view.patch_len);
        weights_.position = copy(view.position, view.num_positions * view.embed_dim);
        weights_.max_rows = view.max_rows;
        weights_.norm = copy(view.norm);
        for (const LayerView& layer : view.layers) layers_.push_back(pack_layer(layer));
        weights_.layers = layers_.data();
        kernels_ = &choose(weights_);
    }

    // Tokens, their roundings, queries, keys and values of a group lie in the second level of cache beside a layer's
    // weights.
    GroupSize group_size() const override { return {weights_.planes == 1 ? 512 : 256, kBlockRows}; }

    std::size_t scratch_bytes(const Group& group) const override { return kernels_->scratch_bytes(weights_, group); }

    void encode(const Group& group, const float* tokens, Pool pool, float* out, std::byte* scratch) const override {
        kernels_->encode_group(weights_, group, tokens, pool, out, scratch);
    }

private:
    const float* copy(const float* values, std::int64_t count) {
        float* target = storage_.take<float>(count);
        std::copy_n(values, count, target);
        return target;
    }

    NormView copy(const NormView& norm) {
        if (norm.alpha == nullptr) return {nullptr, nullptr};
        return {copy(norm.alpha, weights_.embed_dim), copy(norm.bias, weights_.embed_dim)};
    }

    const float* transposed(const float* matrix, std::int64_t rows, std::int64_t columns) {
        float* target = storage_.take<float>(rows * columns);
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < columns; ++c) target[c * rows + r] = matrix[r * columns + c];
        }
        return target;
    }

    // matrix [features, depth], both padded to tiles here.
    TileMatrix pack(Matrix& matrix, int planes) {
        const std::int64_t panels = (matrix.rows + kPanelColumns - 1) / kPanelColumns;
        const std::int64_t tiles = (matrix.columns + kTileDepth - 1) / kTileDepth;
        Bf16* data = storage_.take<Bf16>(panels * tiles * planes * 2 * kTileValues);
        for (std::int64_t f = 0; f < matrix.rows; ++f) {
            for (std::int64_t k = 0; k < matrix.columns; ++k) {
                float rest = matrix.at(f, k);
                const std::int64_t tile = f / kPanelColumns * tiles + k / kTileDepth;
                const std::int64_t in_tile = f % kPanelColumns / 16 * kTileValues + k % kTileDepth / 2 * 32 +
                                             f % 16 * 2 + k % 2;
                for (int plane = 0; plane < planes; ++plane) {
                    const Bf16 rounded = to_bf16(rest);
                    data[(tile * planes + plane) * 2 * kTileValues + in_tile] = rounded;
                    rest -= from_bf16(rounded);
                }
            }
        }
        return {data, panels, tiles};
    }

    TileMatrix pack(const float* values, std::int64_t features, std::int64_t depth) {
        Matrix matrix(features, depth);
        std::copy_n(values, features * depth, matrix.values.begin());
        return pack(matrix, weights_.planes);
    }

    AmxLayer pack_layer(const LayerView& view) {
        AmxLayer layer = {};
        const std::int64_t dim = weights_.embed_dim, ffn = weights_.ffn_dim;
        layer.num_live = view.num_live;
        pack_attention(view, layer);
        layer.fc1 = pack(view.fc1, ffn, dim);
        layer.fc2 = pack(view.fc2, dim, ffn);
        layer.out_bias = copy(view.out_bias, dim);
        layer.fc1_bias = copy(view.fc1_bias, ffn);
        layer.fc2_bias = copy(view.fc2_bias, dim);
        layer.mean = view.mean == nullptr ? nullptr : transposed(view.mean, dim, dim);
        layer.norm1 = copy(view.norm1);
        layer.norm2 = copy(view.norm2);
        weights_.has_means = weights_.has_means || layer.mean != nullptr;
        weights_.most_live = std::max(weights_.most_live, layer.num_live);
        weights_.most_columns = std::max(weights_.most_columns, layer.qkv.panels * kPanelColumns);
        return layer;
    }

    void pack_attention(const LayerView& view, AmxLayer& layer) {
        const std::int64_t dim = weights_.embed_dim, head_dim = weights_.head_dim, live = view.num_live;
        // Heads so narrow that all three of theirs fit 16 columns share them.
        const bool joined = 3 * head_dim <= kSlotColumns;
        layer.key_column = joined ? head_dim : kSlotColumns * live;
        layer.value_column = 2 * layer.key_column;
        const std::int64_t first_column[3] = {0, layer.key_column, layer.value_column};
        const std::int64_t columns = round_up(kSlotColumns * live * (joined ? 1 : 3), kPanelColumns);
        Matrix qkv(columns, dim), out(dim, kSlotColumns * live);
        float* bias = storage_.take<float>(columns);
        // The softmax takes powers of two; rounded once, from double.
        const double query_scale = 1.4426950408889634074 / std::sqrt(static_cast<double>(head_dim));
        for (std::int64_t part = 0; part < 3; ++part) {
            const double scale = part == 0 ? query_scale : 1.0;
            for (std::int64_t i = 0; i < live * head_dim; ++i) {
                const std::int64_t row = part * live * head_dim + i;
                const std::int64_t column = first_column[part] + i / head_dim * kSlotColumns + i % head_dim;
                for (std::int64_t k = 0; k < dim; ++k) {
                    qkv.at(column, k) = static_cast<float>(scale * view.qkv[row * dim + k]);
                }
                bias[column] = static_cast<float>(scale * view.qkv_bias[row]);
            }
        }
        for (std::int64_t d = 0; d < dim; ++d) {
            for (std::int64_t i = 0; i < live * head_dim; ++i) {
                out.at(d, i / head_dim * kSlotColumns + i % head_dim) = view.out[d * live * head_dim + i];
            }
        }
        layer.qkv = pack(qkv, weights_.planes + (weights_.narrow ? 1 : 0));
        layer.qkv_bias = bias;
        layer.out = pack(out, weights_.planes);
    }

    Storage storage_;
    std::vector<AmxLayer> layers_;
    AmxWeights weights_ = {};
    const AmxKernels* kernels_ = nullptr;
};

}  // namespace

#ifdef LWM_BUILD_AMX
std::unique_ptr<Encoder> make_amx_encoder(const EncoderView& view, int planes) {
    return std::make_unique<AmxEncoder>(view, planes, amx::amx_kernels);
}
#endif

#ifdef LWM_BUILD_AMX_EMULATED
std::unique_ptr<Encoder> make_emulated_amx_encoder(const EncoderView& view, int planes) {
    return std::make_unique<AmxEncoder>(view, planes, amx_emulated::amx_kernels);
}
#endif

}  // namespace lwm
