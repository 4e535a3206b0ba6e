// Attention of one sequence, head by head: 16 queries at a time against all keys.
#pragma once

#include "amx_rows.h"

namespace {

// A row of queries, keys and values is a row of slots: 16 columns, then the next plane of the same columns. A tile of
// queries has two adjacent planes side by side, so one product with two planes of keys, one upon the other, sums two
// products of planes:
//   1 plane:  [q0] [k0]
//   2 planes: [q0 q1] [k0 k0] + [q0 q1] [k1 0]
//   3 planes: [q0 q1] [k0 k0] + [q0 q1] [k1 k1] + [q0 q1] [k2 0] + [q1 q2] [0 k0]
template <int kPlanes>
constexpr std::int64_t kKeyTiles = kPlanes == 3 ? 4 : kPlanes;

// Values of a tile of keys.
template <int kPlanes>
constexpr std::int64_t kKeyTile = kPlanes == 1 ? kTileValues / 2 : kTileValues;

template <int kPlanes>
constexpr std::int64_t kSlot = kTileRows * kPlanes;

// Where a value of column `column` of a slot row starts; the following columns of the slot lie behind it.
template <int kPlanes>
inline std::int64_t slot_offset(std::int64_t column, int plane) {
    return column / kTileRows * kSlot<kPlanes> + plane * kTileRows + column % kTileRows;
}

struct AttentionScratch {
    Bf16* keys;           // [blocks of 16 keys][kKeyTiles] tiles
    Bf16* values;         // [blocks of 32 keys][value planes] tiles
    Bf16* ones;           // [keys / 2][2]: 1 for a key, 0 behind the last one
    float* scores[2];     // [16][keys]
    Bf16* probabilities;  // [value planes][16][keys]
    float* values_out;    // [16][16]
    float* totals;        // [16]
    Bf16* magnitudes[2];  // of queries and keys: [16]
};

struct Sequence {
    const Bf16* rows;  // slots
    std::int64_t stride;
    std::int64_t length, num_queries;
    std::int64_t key_blocks, value_blocks;  // of 16 and 32 keys
};

// Registers 0: scores; 1: values; 2: sums of probabilities; 3: ones; 4: queries; 5: keys; 6: probabilities;
// 7: values of keys, or the second tile of queries.
template <int kPlanes>
inline TileConfig attention_config() {
    TileConfig config;
    config.shape(0, 16, 64);
    config.shape(1, 16, 64);
    config.shape(2, 16, 4);
    config.shape(3, 16, 4);
    config.shape(4, 16, kPlanes == 1 ? 32 : 64);
    config.shape(5, kPlanes == 1 ? 8 : 16, 64);
    config.shape(6, 16, 64);
    config.shape(7, 16, 64);
    return config;
}

// Keys behind the last are copies of it, so that the softmax needs no mask: their values and ones are zero.
template <int kPlanes>
inline void pack_keys(const Sequence& s, std::int64_t column, int head_dim, Bf16* keys) {
    constexpr std::int64_t kHalf = kTileValues / 2;  // the keys of one plane
    for (std::int64_t block = 0; block < s.key_blocks; ++block) {
        for (int plane = 0; plane < kPlanes; ++plane) {
            const Bf16* rows[16];
            for (std::int64_t j = 0; j < 16; ++j) {
                const std::int64_t key = block * 16 + j < s.length ? block * 16 + j : s.length - 1;
                rows[j] = s.rows + key * s.stride + slot_offset<kPlanes>(column, plane);
            }
            Bf16* tiles = keys + block * kKeyTiles<kPlanes> * kKeyTile<kPlanes>;
            Bf16* tile = tiles + plane * kTileValues;
            store_transposed_pairs(tile, rows, head_dim);
            if constexpr (kPlanes > 1) {
                if (plane + 1 < kPlanes) {
                    std::memcpy(tile + kHalf, tile, kHalf * sizeof(Bf16));
                } else {
                    std::memset(tile + kHalf, 0, kHalf * sizeof(Bf16));
                }
            }
            if constexpr (kPlanes == 3) {
                if (plane == 0) {
                    std::memset(tiles + 3 * kTileValues, 0, kHalf * sizeof(Bf16));
                    std::memcpy(tiles + 3 * kTileValues + kHalf, tile, kHalf * sizeof(Bf16));
                }
            }
        }
    }
}

template <int kPlanes, int kValuePlanes>
inline void pack_values(const Sequence& s, std::int64_t column, int head_dim, Bf16* values) {
    static constexpr Bf16 kNone[16] = {};
    for (std::int64_t pair = 0; pair < s.value_blocks * 16; ++pair) {
        for (int plane = 0; plane < kValuePlanes; ++plane) {
            const Bf16* row = s.rows + 2 * pair * s.stride + slot_offset<kPlanes>(column, plane);
            Bf16* target = values + (pair / 16 * kValuePlanes + plane) * kTileValues + pair % 16 * 32;
            store_pairs(target, 2 * pair < s.length ? row : kNone, 2 * pair + 1 < s.length ? row + s.stride : kNone,
                        head_dim);
        }
    }
}

// A bound on every |score| of the head: sum over d of max |q_d| max |k_d|. Low planes add at most 2^-8 to each.
template <int kPlanes>
inline float score_bound(const Sequence& s, std::int64_t query_column, std::int64_t key_column, int head_dim,
                         const AttentionScratch& scratch) {
    store_magnitudes(scratch.magnitudes[0], s.rows + slot_offset<kPlanes>(query_column, 0), s.stride, s.length);
    store_magnitudes(scratch.magnitudes[1], s.rows + slot_offset<kPlanes>(key_column, 0), s.stride, s.length);
    float bound = 0.0f;
    for (int d = 0; d < head_dim; ++d) {
        bound += lwm::from_bf16(scratch.magnitudes[0][d]) * lwm::from_bf16(scratch.magnitudes[1][d]);
    }
    return bound * 1.02f;
}

// scores [16, keys] of the queries from `first` on. Small products first.
template <int kPlanes>
inline void score(const Sequence& s, std::int64_t query_column, std::int64_t first, const Bf16* keys,
                  float* scores) {
    const std::int64_t stride = 4 * s.value_blocks * 32;
    const Bf16* queries = s.rows + first * s.stride + slot_offset<kPlanes>(query_column, 0);
    tile_load<4>(queries, 2 * s.stride);
    if constexpr (kPlanes == 3) tile_load<7>(queries + kTileRows, 2 * s.stride);
    for (std::int64_t block = 0; block < s.key_blocks; ++block) {
        const Bf16* tiles = keys + block * kKeyTiles<kPlanes> * kKeyTile<kPlanes>;
        tile_zero<0>();
        if constexpr (kPlanes == 3) {
            tile_load<5>(tiles + 3 * kTileValues, 64);
            tile_dot<0, 7, 5>();
        }
        for (int plane = kPlanes - 1; plane >= 0; --plane) {
            tile_load<5>(tiles + plane * kKeyTile<kPlanes>, 64);
            tile_dot<0, 4, 5>();
        }
        tile_store<0>(scores + block * 16, stride);
    }
}

// probabilities = 2^(scores - an integer near the row's largest), not yet divided by their sum. kBounded: no score
// exceeds kSafeScore, so no power and no product with a value leaves the range of float32 and nothing is subtracted.
constexpr float kSafeScore = 60.0f;

template <int kValuePlanes, bool kBounded>
inline void softmax(const Sequence& s, std::int64_t rows, const float* scores, Bf16* probabilities) {
    const std::int64_t stride = s.value_blocks * 32, plane = kTileRows * stride;
    constexpr bool kExact = kValuePlanes > 1;
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* row = scores + r * stride;
        Bf16* target = probabilities + r * stride;
        Floats shift = splat(kShift), least = splat(0.0f);
        if constexpr (!kBounded) {
            Floats most = load(row);
            for (std::int64_t b = 1; b < s.key_blocks; ++b) most = larger(most, load(row + b * 16));
            const float near = (max_lanes(most) + kShift) - kShift;
            shift = splat(kShift - near);
            least = splat(near - 120.0f);  // 2^-120 of the largest is as good as nothing
        }
        const auto power = [&](std::int64_t b) {
            Floats x = load(row + b * 16);
            if constexpr (!kBounded) x = larger(least, x);
            return exp2_of<kExact>(x, shift);
        };
        std::int64_t b = 0;
        for (; b + 1 < s.key_blocks; b += 2) {
            const Floats low = power(b);
            store_planes<kValuePlanes>(target + b * 16, plane, low, power(b + 1));
        }
        if (b < s.key_blocks) store_planes<kValuePlanes>(target + b * 16, plane, power(b));
    }
}

// values_out [16, 16] = probabilities x values, totals [16] = sums of the probabilities.
template <int kValuePlanes>
inline void weigh(const Sequence& s, const AttentionScratch& scratch) {
    const std::int64_t stride = s.value_blocks * 32;
    tile_zero<1>();
    tile_zero<2>();
    for (std::int64_t block = 0; block < s.value_blocks; ++block) {
        tile_load<3>(scratch.ones + block * 32, 4);
        for (int i = kValuePlanes - 1; i >= 0; --i) {
            tile_load<6>(scratch.probabilities + i * kTileRows * stride + block * 32, 2 * stride);
            tile_dot<2, 6, 3>();
            for (int j = kValuePlanes - 1 - i; j >= 0; --j) {
                tile_load<7>(scratch.values + (block * kValuePlanes + j) * kTileValues, 64);
                tile_dot<1, 6, 7>();
            }
        }
    }
    tile_store<1>(scratch.values_out, 64);
    tile_store<2>(scratch.totals, 4);
}

// Rows of values divided by their totals, rounded for the next product.
template <int kPlanes>
inline void store_context(const AttentionScratch& scratch, std::int64_t rows, Bf16* context, std::int64_t stride,
                          std::int64_t plane) {
    float shares[16];
    store(shares, splat(1.0f) / load(scratch.totals));
    for (std::int64_t r = 0; r < rows; ++r) {
        store_planes<kPlanes>(context + r * stride, plane, load(scratch.values_out + 16 * r) * splat(shares[r]));
    }
}

// The head's part of context [num_queries, 16 * heads]. The scores of the next queries are ready before these queries'
// values are needed, so that tiles and vectors work side by side.
template <int kPlanes, int kScorePlanes, int kValuePlanes>
inline void attend(const Sequence& s, std::int64_t head, const lwm::AmxLayer& layer, int head_dim,
                   const AttentionScratch& scratch, Bf16* context, std::int64_t context_stride,
                   std::int64_t context_plane) {
    const std::int64_t query = head * 16, key = layer.key_column + head * 16, value = layer.value_column + head * 16;
    pack_keys<kScorePlanes>(s, key, head_dim, scratch.keys);
    pack_values<kScorePlanes, kValuePlanes>(s, value, head_dim, scratch.values);
    const bool bounded = score_bound<kScorePlanes>(s, query, key, head_dim, scratch) <= kSafeScore;
    score<kScorePlanes>(s, query, 0, scratch.keys, scratch.scores[0]);
    for (std::int64_t first = 0; first < s.num_queries; first += 16) {
        const std::int64_t rows = s.num_queries - first < 16 ? s.num_queries - first : 16;
        const float* scores = scratch.scores[first / 16 % 2];
        if (bounded) {
            softmax<kValuePlanes, true>(s, rows, scores, scratch.probabilities);
        } else {
            softmax<kValuePlanes, false>(s, rows, scores, scratch.probabilities);
        }
        if (first + 16 < s.num_queries) {
            score<kScorePlanes>(s, query, first + 16, scratch.keys, scratch.scores[(first / 16 + 1) % 2]);
        }
        weigh<kValuePlanes>(s, scratch);
        store_context<kPlanes>(scratch, rows, context + first * context_stride + head * 16, context_stride,
                               context_plane);
    }
}

// Once for each sequence: what does not depend on the head.
template <int kValuePlanes>
inline void prepare_attention(const Sequence& s, const AttentionScratch& scratch) {
    const std::int64_t keys = s.value_blocks * 32;
    for (std::int64_t j = 0; j < keys; ++j) scratch.ones[j] = j < s.length ? Bf16{0x3f80} : Bf16{0};
    if (s.key_blocks % 2 == 0) return;
    // No score reaches these; whatever they hold meets values of zero, and NaN times zero is NaN.
    for (std::int64_t r = 0; r < kValuePlanes * kTileRows; ++r) {
        std::memset(scratch.probabilities + r * keys + s.key_blocks * 16, 0, 16 * sizeof(Bf16));
    }
}

}  // namespace
