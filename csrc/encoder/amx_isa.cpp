// The encoder over tiles of bfloat16. Compiled twice: for AMX, and with the tiles emulated (tests).
//
// As in every file compiled for an instruction set, helpers are in unnamed namespaces and no std:: templates are used.
#include "amx_attention.h"

namespace {

// Work space of a group, cut from one piece of memory.
struct Scratch {
    float* x;        // [rows, embed_dim]: tokens
    Bf16* low;       // [planes][rows, embed_dim]: tokens, rounded
    Bf16* slots;     // [rows, slots]: queries, keys, values
    Bf16* context;   // [planes][rows, 16 * heads]
    Bf16* hidden;    // [planes][32, ffn_dim]
    float* sums;     // [32, embed_dim], or two panels
    float* mean;     // [embed_dim]
    float* extra;    // [sequences, embed_dim]: of the collapsed heads
    std::int32_t* sequence;  // [rows]
    AttentionScratch attention;
    std::size_t bytes;
};

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

template <int kPlanes, bool kNarrow>
struct Path {
    // Narrow heads (v1.0: 5 wide) have few terms to average the rounding of queries and keys out: these and the product
    // that makes them keep one plane more.
    static constexpr int kScorePlanes = kPlanes + (kNarrow ? 1 : 0);

    static Scratch cut(const lwm::AmxWeights& w, const lwm::Group& group, std::byte* memory) {
        Scratch s;
        s.bytes = 0;
        const auto take = [&](std::int64_t count, std::size_t size) {
            std::byte* at = memory == nullptr ? nullptr : memory + s.bytes;
            s.bytes += (static_cast<std::size_t>(count) * size + 63) / 64 * 64;
            return static_cast<void*>(at);
        };
        const auto floats = [&](std::int64_t count) { return static_cast<float*>(take(count, sizeof(float))); };
        const auto halves = [&](std::int64_t count) { return static_cast<Bf16*>(take(count, sizeof(Bf16))); };
        const std::int64_t rows = round_up(group.rows, kBlockRows);
        const std::int64_t keys = round_up(group.longest, 32), dim = w.embed_dim;
        s.x = floats(rows * dim);
        s.low = halves(kScorePlanes * rows * dim);
        // The last block of queries reads on behind its sequence, and the last slot a few values behind its row.
        s.slots = halves((rows + kTileRows) * w.most_columns * kScorePlanes + 32);
        s.context = halves(kPlanes * rows * round_up(16 * w.most_live, kTileDepth));
        s.hidden = halves(kPlanes * kBlockRows * w.ffn_dim);
        s.sums = floats(kBlockRows * (dim > 2 * kPanelColumns ? dim : 2 * kPanelColumns));
        s.mean = floats(dim);
        s.extra = floats(w.has_means ? group.count * dim : 0);
        s.sequence = static_cast<std::int32_t*>(take(rows, sizeof(std::int32_t)));
        AttentionScratch& a = s.attention;
        a.keys = halves(keys / 16 * kKeyTiles<kScorePlanes> * kKeyTile<kScorePlanes>);
        a.values = halves(keys / 32 * kPlanes * kTileValues);
        a.ones = halves(keys);
        for (float*& scores : a.scores) scores = floats(16 * keys);
        a.probabilities = halves(kPlanes * 16 * keys);
        a.values_out = floats(16 * 16);
        a.totals = floats(16);
        for (Bf16*& magnitudes : a.magnitudes) magnitudes = halves(16);
        return s;
    }

    static std::size_t scratch_bytes(const lwm::AmxWeights& w, const lwm::Group& group) {
        return cut(w, group, nullptr).bytes;
    }

    // The rows of x from r on, and where they are rounded to.
    static Target target_of(const lwm::AmxWeights& w, const Scratch& s, std::int64_t plane_rows, std::int64_t r) {
        return {s.x + r * w.embed_dim, s.low + r * w.embed_dim, plane_rows * w.embed_dim};
    }

    static void embed(const lwm::AmxWeights& w, const lwm::Group& group, const float* tokens, const Scratch& s) {
        const std::int64_t plane_rows = round_up(group.rows, kBlockRows);
        NormRows block = {s.sums, 0, w.embed_dim, {}};
        std::int64_t r = 0;
        for (std::int64_t i = 0; i < group.count; ++i) {
            const std::int32_t* grid = group.grids == nullptr ? nullptr : group.grids + 2 * i;
            for (std::int64_t t = 0; t < group.lengths[i]; ++t, ++r) {
                s.sequence[r] = static_cast<std::int32_t>(i);
                float* row = block.rows + block.count * w.embed_dim;
                block.set_mean(block.count,
                               embed_row(w, tokens + r * w.patch_len, position_rows(w, grid, t), row));
                if (++block.count < kBlockRows && r + 1 < group.rows) continue;
                store_norm<kScorePlanes>(block, w.norm, target_of(w, s, plane_rows, r + 1 - block.count));
                block.count = 0;
            }
        }
    }

    // slots = x W + bias for all rows.
    static void project(const lwm::AmxWeights& w, const lwm::AmxLayer& layer, std::int64_t rows, const Scratch& s) {
        const TileScope scope(product_config());
        const std::int64_t plane = round_up(rows, kBlockRows) * w.embed_dim;
        const std::int64_t stride = layer.qkv.panels * kPanelColumns * kScorePlanes;
        for (std::int64_t first = 0; first < rows; first += kBlockRows) {
            const Rows left = {s.low + first * w.embed_dim, w.embed_dim, plane};
            product_by_panels<kScorePlanes>(left, layer.qkv, s.sums, [&](std::int64_t panel, const float* sums) {
                const Floats low = load(layer.qkv_bias + panel * kPanelColumns);
                const Floats high = load(layer.qkv_bias + panel * kPanelColumns + kLanes);
                Bf16* target = s.slots + first * stride + panel * 2 * kSlot<kScorePlanes>;
                for (std::int64_t r = 0; r < kBlockRows; ++r, target += stride) {
                    const Floats a = load(sums + r * kPanelColumns) + low;
                    const Floats b = load(sums + r * kPanelColumns + kLanes) + high;
                    if constexpr (kScorePlanes == 1) {
                        store_bf16(target, a, b);
                    } else {
                        store_planes<kScorePlanes>(target, kTileRows, a);
                        store_planes<kScorePlanes>(target + kSlot<kScorePlanes>, kTileRows, b);
                    }
                }
            });
        }
    }

    // context of all rows, or of the CLS rows alone, one behind the other.
    static void attention(const lwm::AmxWeights& w, const lwm::AmxLayer& layer, const lwm::Group& group, bool cls_only,
                          const Scratch& s) {
        const TileScope scope(attention_config<kScorePlanes>());
        const std::int64_t stride = layer.qkv.panels * kPanelColumns * kScorePlanes;
        const std::int64_t width = layer.out.depth_tiles * kTileDepth;
        const std::int64_t plane = round_up(group.rows, kBlockRows) * width;
        std::int64_t start = 0;
        for (std::int64_t i = 0; i < group.count; ++i) {
            const std::int64_t length = group.lengths[i];
            const Sequence sequence = {s.slots + start * stride, stride, length, cls_only ? 1 : length,
                                       (length + 15) / 16, (length + 31) / 32};
            Bf16* context = s.context + (cls_only ? i : start) * width;
            prepare_attention<kPlanes>(sequence, s.attention);
            for (std::int64_t head = 0; head < layer.num_live; ++head) {
                attend<kPlanes, kScorePlanes, kPlanes>(sequence, head, layer, static_cast<int>(w.head_dim),
                                                       s.attention, context, width, plane);
            }
            if (layer.num_live % 2 != 0) {  // the other half of the last tile meets weights of zero
                for (std::int64_t r = 0; r < sequence.num_queries * kPlanes; ++r) {
                    const std::int64_t row = r / kPlanes, in_plane = r % kPlanes;
                    std::memset(context + in_plane * plane + row * width + layer.num_live * 16, 0, 16 * sizeof(Bf16));
                }
            }
            start += length;
        }
    }

    // Everything behind attention, for 32 rows at a time.
    static void finish_layer(const lwm::AmxWeights& w, const lwm::AmxLayer& layer, std::int64_t rows,
                             std::int64_t plane_rows, const Scratch& s) {
        const TileScope scope(product_config());
        const std::int64_t dim = w.embed_dim, width = layer.out.depth_tiles * kTileDepth;
        for (std::int64_t first = 0; first < rows; first += kBlockRows) {
            const std::int64_t count = rows - first < kBlockRows ? rows - first : kBlockRows;
            const Target target = target_of(w, s, plane_rows, first);
            NormRows block = {s.sums, count, dim, {}};
            product<kPlanes>({s.context + first * width, width, plane_rows * width}, layer.out, s.sums);
            for (std::int64_t r = 0; r < count; ++r) {
                const float* extra = layer.mean == nullptr ? nullptr : s.extra + s.sequence[first + r] * dim;
                block.set_mean(r, add_residual(s.sums + r * dim, dim, layer.out_bias, extra, w.residual,
                                               target.exact + r * dim));
            }
            store_norm<kPlanes>(block, layer.norm1, target);
            const Rows a = {s.low + first * dim, dim, plane_rows * dim};
            const std::int64_t hidden_plane = kBlockRows * w.ffn_dim;
            product_by_panels<kPlanes>(a, layer.fc1, s.sums, [&](std::int64_t panel, const float* sums) {
                const std::int64_t column = panel * kPanelColumns;
                store_hidden<kPlanes>(sums, layer.fc1_bias + column, s.hidden + column, w.ffn_dim, hidden_plane);
            });
            product<kPlanes>({s.hidden, w.ffn_dim, hidden_plane}, layer.fc2, s.sums);
            for (std::int64_t r = 0; r < count; ++r) {
                block.set_mean(r, add_residual(s.sums + r * dim, dim, layer.fc2_bias, nullptr, 1.0f,
                                               target.exact + r * dim));
            }
            if (layer.norm2.alpha == nullptr) {
                store_rows<kScorePlanes>(block, target);
            } else {
                store_norm<kScorePlanes>(block, layer.norm2, target);
            }
        }
    }

    // The collapsed heads' part of every sequence.
    static void means(const lwm::AmxWeights& w, const lwm::AmxLayer& layer, const lwm::Group& group,
                      const Scratch& s) {
        std::int64_t start = 0;
        for (std::int64_t i = 0; i < group.count; ++i) {
            store_mean(s.x + start * w.embed_dim, group.lengths[i], w.embed_dim, s.mean);
            vector_product(s.mean, layer.mean, w.embed_dim, s.extra + i * w.embed_dim);
            start += group.lengths[i];
        }
    }

    // The CLS rows to the front.
    static void keep_cls(const lwm::AmxWeights& w, const lwm::Group& group, const Scratch& s) {
        std::int64_t start = 0;
        for (std::int64_t i = 0; i < group.count; ++i) {
            std::memmove(s.x + i * w.embed_dim, s.x + start * w.embed_dim,
                         static_cast<std::size_t>(w.embed_dim) * sizeof(float));
            s.sequence[i] = static_cast<std::int32_t>(i);
            start += group.lengths[i];
        }
    }

    static void encode(const lwm::AmxWeights& w, const lwm::Group& group, const float* tokens, lwm::Pool pool,
                       float* out, std::byte* memory) {
        const Scratch s = cut(w, group, memory);
        const std::int64_t plane_rows = round_up(group.rows, kBlockRows);
        embed(w, group, tokens, s);
        for (std::int64_t l = 0; l < w.num_layers; ++l) {
            const lwm::AmxLayer& layer = w.layers[l];
            const bool cls_only = pool == lwm::Pool::cls && l + 1 == w.num_layers;
            if (layer.num_live > 0) {
                project(w, layer, group.rows, s);
                attention(w, layer, group, cls_only, s);
            }
            if (layer.mean != nullptr) means(w, layer, group, s);
            if (cls_only) keep_cls(w, group, s);
            finish_layer(w, layer, cls_only ? group.count : group.rows, plane_rows, s);
        }
        store_pooled(s.x, group, w.embed_dim, pool, out);
    }
};

template <int kPlanes, bool kNarrow>
constexpr lwm::AmxKernels kKernels = {Path<kPlanes, kNarrow>::scratch_bytes, Path<kPlanes, kNarrow>::encode};

}  // namespace

namespace lwm::LWM_ISA {

const AmxKernels& amx_kernels(const AmxWeights& weights);

const AmxKernels& amx_kernels(const AmxWeights& weights) {
    if (weights.planes == 1) return weights.narrow ? kKernels<1, true> : kKernels<1, false>;
    return weights.narrow ? kKernels<2, true> : kKernels<2, false>;
}

}  // namespace lwm::LWM_ISA
