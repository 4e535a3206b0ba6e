// Which entries of a row dropout keeps. Philox-4x32-10 on 64-bit lanes: a widening product reads the low half of
// its lane alone, so what lands in the high halves needs no clearing, and a round costs six operations.
#include "isa.h"
#include "philox.h"
#include "training_kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace lwm::LWM_ISA {

void draw_keep(const KeepPlan& keep, std::int64_t row, std::int64_t count, std::uint8_t* out);

namespace {

#if defined(__AVX512F__) && defined(__GNUC__)

constexpr int kBlocks = 8;
typedef std::uint64_t Words __attribute__((vector_size(64)));
inline Words product(Words a, Words b) {
    // The form without a mask reads an undefined vector in GCC's header, which then warns about it.
    return reinterpret_cast<Words>(
        _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}

#elif defined(__AVX2__) && defined(__GNUC__)

constexpr int kBlocks = 4;
typedef std::uint64_t Words __attribute__((vector_size(32)));
inline Words product(Words a, Words b) {
    return reinterpret_cast<Words>(
        _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}

#else

constexpr int kBlocks = 1;
typedef std::uint64_t Words;
inline Words product(Words a, Words b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }

#endif

inline Words same(std::uint64_t x) { return x - Words{}; }

inline Words numbered(std::uint32_t first) {
    std::uint64_t blocks[kBlocks];
    for (int i = 0; i < kBlocks; ++i) blocks[i] = first + static_cast<std::uint32_t>(i);
    Words words;
    std::memcpy(&words, blocks, sizeof(words));
    return words;
}

constexpr int kGroups = 2;  // vectors in flight: one would wait for its own products

// A byte per word of the block, 1 where word >= limit: byte w of a lane's low half is word w's.
inline Words kept(const Words (&words)[4], Words limit) {
    Words dropped = same(0);
    for (int w = 0; w < 4; ++w) {
        // The subtraction borrows, and so sets the top bit, where the word is smaller.
        dropped |= (((words[w] & same(0xffffffffu)) - limit) >> 63) << (8 * w);
    }
    return dropped ^ same(0x01010101u);
}

struct Keys {
    Words round[kPhiloxRounds][2];
};

// The low 32 bits of every lane, one after another.
inline void store_low(Words words, std::uint8_t* out) {
#if defined(__GNUC__) && defined(__AVX2__)
    typedef std::uint32_t Halves __attribute__((vector_size(4 * kBlocks)));
    const Halves low = __builtin_convertvector(words, Halves);
    std::memcpy(out, &low, sizeof(low));
#else
    for (int w = 0; w < 4; ++w) out[w] = static_cast<std::uint8_t>(words >> (8 * w));
#endif
}

// The keep bytes of kGroups * kBlocks blocks from `block` on.
inline void draw(const KeepPlan& keep, const Keys& keys, std::uint64_t sample, std::uint32_t block,
                 std::uint8_t* out) {
    Words words[kGroups][4];
    for (int g = 0; g < kGroups; ++g) {
        words[g][0] = same(sample & 0xffffffffu);
        words[g][1] = same(sample >> 32);
        words[g][2] = same(keep.epoch);
        words[g][3] = numbered(block + static_cast<std::uint32_t>(g * kBlocks));
    }
    for (int round = 0; round < kPhiloxRounds; ++round) {
        for (int g = 0; g < kGroups; ++g) {
            Words (&w)[4] = words[g];
            const Words product0 = product(w[0], same(kPhiloxMultiplier0));
            const Words product1 = product(w[2], same(kPhiloxMultiplier1));
            w[0] = (product1 >> 32) ^ w[1] ^ keys.round[round][0];
            w[1] = product1;
            w[2] = (product0 >> 32) ^ w[3] ^ keys.round[round][1];
            w[3] = product0;
        }
    }
    const Words limit = same(std::uint64_t{keep.threshold} << 8);
    for (int g = 0; g < kGroups; ++g) store_low(kept(words[g], limit), out + 4 * g * kBlocks);
}

}  // namespace

void draw_keep(const KeepPlan& keep, std::int64_t row, std::int64_t count, std::uint8_t* out) {
    Keys keys;
    std::uint32_t key0 = keep.seed_low, key1 = keep.seed_high;
    for (int round = 0; round < kPhiloxRounds; ++round) {
        keys.round[round][0] = same(key0);
        keys.round[round][1] = same(key1);
        key0 += kPhiloxWeyl0;
        key1 += kPhiloxWeyl1;
    }
    const auto sample = static_cast<std::uint64_t>(keep.sample_id[row / keep.seq_len]);
    const auto token = static_cast<std::uint32_t>(row % keep.seq_len);
    const std::uint32_t first = keep.first_block + token * keep.blocks_per_token;
    constexpr std::int64_t kStep = 4 * kGroups * kBlocks;
    std::int64_t begin = 0;
    for (; begin + kStep <= count; begin += kStep) {
        draw(keep, keys, sample, first + static_cast<std::uint32_t>(begin / 4), out + begin);
    }
    if (begin < count) {
        std::uint8_t bytes[kStep];
        draw(keep, keys, sample, first + static_cast<std::uint32_t>(begin / 4), bytes);
        std::memcpy(out + begin, bytes, static_cast<std::size_t>(count - begin));
    }
}

}  // namespace lwm::LWM_ISA
