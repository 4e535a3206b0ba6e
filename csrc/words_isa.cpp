// Random words of a sample's stream, many Philox blocks at a time.
#include "isa.h"
#include "kernels.h"
#include "philox.h"

namespace lwm::LWM_ISA {

void draw_words(const DrawKey& key, std::uint32_t stream, std::int64_t first_block, std::int64_t num_blocks,
                std::uint32_t* words);

namespace {

template <int lanes>
void draw_blocks(const DrawKey& key, std::uint32_t stream, std::uint32_t first_block, int count,
                 std::uint32_t* words) {
    std::uint32_t counter[4][lanes];
    for (int i = 0; i < lanes; ++i) {
        counter[0][i] = key.sample_low;
        counter[1][i] = key.sample_high;
        counter[2][i] = key.epoch;
        counter[3][i] = (stream << 24) | (first_block + static_cast<std::uint32_t>(i));
    }
    philox(counter, key.seed_low, key.seed_high);
    for (int i = 0; i < count; ++i) {
        for (int w = 0; w < 4; ++w) words[4 * i + w] = counter[w][i];
    }
}

constexpr int kMany = 16, kFew = 4;

}  // namespace

void draw_words(const DrawKey& key, std::uint32_t stream, std::int64_t first_block, std::int64_t num_blocks,
                std::uint32_t* words) {
    auto block = static_cast<std::uint32_t>(first_block);
    for (; num_blocks >= kMany; num_blocks -= kMany, block += kMany, words += 4 * kMany) {
        draw_blocks<kMany>(key, stream, block, kMany, words);
    }
    for (; num_blocks > 0; num_blocks -= kFew, block += kFew, words += 4 * kFew) {
        const int count = num_blocks < kFew ? static_cast<int>(num_blocks) : kFew;
        draw_blocks<kFew>(key, stream, block, count, words);
    }
}

}  // namespace lwm::LWM_ISA
