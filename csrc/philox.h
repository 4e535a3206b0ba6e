// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): random bits as a
// function of (key, counter), so that a sample's noise does not depend on what else is in the batch.
//
// lwm_fast's use, the same in C++, Triton and numpy: key = seed, counter = (sample low, sample high, epoch,
// stream << 24 | block), uniform = (word >> 8) * 2^-24.
#pragma once

#include <cstdint>

// Included by files compiled for AVX-512: each keeps its own copy.
namespace {

constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// Of the streams listed in the package's philox module, those that C++ draws from.
constexpr std::uint32_t kStreamMaskPositions = 0, kStreamActions = 1, kStreamRandomPatches = 2, kStreamNoise = 3;
constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 24;  // per sample and stream

// In place on `lanes` counters, stored word by word: counter[word][lane].
template <int lanes>
inline void philox(std::uint32_t (&counter)[4][lanes], std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < kPhiloxRounds; ++round) {
        // Unrolled completely, as GCC would, the loop over lanes is no longer turned into vector code.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 1
#endif
        for (int i = 0; i < lanes; ++i) {
            const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * counter[0][i];
            const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * counter[2][i];
            counter[0][i] = static_cast<std::uint32_t>(product1 >> 32) ^ counter[1][i] ^ key0;
            counter[1][i] = static_cast<std::uint32_t>(product1);
            counter[2][i] = static_cast<std::uint32_t>(product0 >> 32) ^ counter[3][i] ^ key1;
            counter[3][i] = static_cast<std::uint32_t>(product0);
        }
        key0 += kPhiloxWeyl0;
        key1 += kPhiloxWeyl1;
    }
}

}  // namespace
