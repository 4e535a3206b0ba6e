#include "mask.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "dispatch.h"
#include "parallel.h"
#include "philox.h"

namespace lwm {
namespace {

std::string str(std::int64_t value) { return std::to_string(value); }

// 24-bit uniforms k * 2^-24 are below 0.1, 0.9 exactly when k is below these.
constexpr std::uint32_t kBelowTenth = 1677722, kBelowNineTenths = 15099495;

DrawKey key_of(const MaskPlan& plan, std::int64_t sample) {
    const auto id = static_cast<std::uint64_t>(plan.sample_id[sample]);
    return {static_cast<std::uint32_t>(plan.seed), static_cast<std::uint32_t>(plan.seed >> 32),
            static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(id >> 32), plan.epoch};
}

// The words of a stream one after another, drawn in runs.
class Words {
public:
    Words(const DrawKey& key, std::uint32_t stream, std::int64_t expected, std::vector<std::uint32_t>& buffer)
        : key_(key), stream_(stream), buffer_(buffer) {
        refill((expected + 3) / 4);
    }

    std::uint32_t next() {
        if (place_ == buffer_.size()) refill(1);
        return buffer_[place_++];
    }

    // Uniform in 0..bound - 1 (Lemire, "Fast random integer generation in an interval", 2019).
    std::uint32_t below(std::uint32_t bound) {
        std::uint64_t product = std::uint64_t{next()} * bound;
        if (static_cast<std::uint32_t>(product) < bound) {
            const std::uint32_t uneven = (0u - bound) % bound;  // 2^32 mod bound
            while (static_cast<std::uint32_t>(product) < uneven) product = std::uint64_t{next()} * bound;
        }
        return static_cast<std::uint32_t>(product >> 32);
    }

private:
    void refill(std::int64_t blocks) {
        buffer_.resize(static_cast<std::size_t>(4 * blocks));
        kernels().draw_words(key_, stream_, block_, blocks, buffer_.data());
        block_ += blocks;
        place_ = 0;
    }

    const DrawKey key_;
    const std::uint32_t stream_;
    std::vector<std::uint32_t>& buffer_;
    std::int64_t block_ = 0;
    std::size_t place_ = 0;
};

std::uint8_t action_of(std::uint32_t word) {
    const std::uint32_t k = word >> 8;
    return k < kBelowTenth ? kActionRandom : (k < kBelowNineTenths ? kActionMask : kActionKept);
}

// Entry m of the list, read once and checked: another thread of the caller may write to the list meanwhile.
std::int64_t masked_row(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t sample, std::int64_t m) {
    const std::int32_t row = plan.masked_index[m];
    if (row > cu_seqlens[sample] && row < cu_seqlens[sample + 1]) return row;
    throw std::invalid_argument("masked_index[" + str(m) + "] is " + str(row) + " but sample " + str(sample) +
                                " has its patches in rows " + str(std::int64_t{cu_seqlens[sample]} + 1) + ".." +
                                str(std::int64_t{cu_seqlens[sample + 1]} - 1));
}

void draw_patch(const DrawKey& key, std::int64_t token, std::int64_t patch_len, std::uint32_t* words,
                float* patch) {
    kernels().draw_words(key, kStreamRandomPatches, token * patch_len / 4, patch_len / 4, words);
    for (std::int64_t i = 0; i < patch_len; ++i) {
        patch[i] = static_cast<float>(words[i] >> 8) * (1.0f / 16777216.0f);
    }
}

}  // namespace

void check_mask_counts(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens,
                       std::int64_t batch, std::int64_t num_tokens, TokenVersion version) {
    check_bounds("cu_seqlens", cu_seqlens, batch, num_tokens, "tokens");
    check_bounds("mask_cu", plan.mask_cu, batch, num_masked, "masked_index");
    if (plan.mask_cu[0] != 0 || plan.mask_cu[batch] != num_masked) {
        throw std::invalid_argument("mask_cu runs from " + str(plan.mask_cu[0]) + " to " +
                                    str(plan.mask_cu[batch]) + " but masked_index holds " + str(num_masked) +
                                    ": it must run from 0 to that number");
    }
    const std::int64_t patch_len = patch_length(version);
    const bool pairs = version == TokenVersion::v1_0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t patches = std::max(0, cu_seqlens[i + 1] - cu_seqlens[i] - 1);
        const std::int64_t count = plan.mask_cu[i + 1] - plan.mask_cu[i];
        if (count > (pairs ? patches / 2 * 2 : patches) || (pairs && count % 2 != 0)) {
            throw std::invalid_argument("mask_cu gives sample " + str(i) + " " + str(count) +
                                        " masked tokens but it has " + str(patches) + " patches" +
                                        (pairs ? " and v1.0 masks pairs: give an even number" : "") +
                                        ", at most all of them");
        }
        if ((patches + 1) * patch_len > 4 * kMaxBlocks) {
            throw std::invalid_argument("sample " + str(i) + " has " + str(patches + 1) +
                                        " tokens: random patches are defined for at most " +
                                        str(4 * kMaxBlocks / patch_len) + " per sample");
        }
    }
}

void check_mask_rows(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t batch) {
    for (std::int64_t i = 0; i < batch; ++i) {
        for (std::int64_t m = plan.mask_cu[i]; m < plan.mask_cu[i + 1]; ++m) masked_row(plan, cu_seqlens, i, m);
    }
}

void draw_sample_mask(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t sample,
                      TokenVersion version, MaskWork& work) {
    const std::int64_t first = cu_seqlens[sample], patches = cu_seqlens[sample + 1] - first - 1;
    std::fill(plan.action + first, plan.action + cu_seqlens[sample + 1], kActionNone);
    const std::int64_t count = plan.mask_cu[sample + 1] - plan.mask_cu[sample];
    if (count == 0) return;
    const bool pairs = version == TokenVersion::v1_0;
    const std::int64_t pool = pairs ? patches / 2 : patches, drawn = pairs ? count / 2 : count;
    const DrawKey key = key_of(plan, sample);
    std::int32_t* rows = plan.masked_index + plan.mask_cu[sample];

    work.order.resize(static_cast<std::size_t>(pool));
    std::iota(work.order.begin(), work.order.end(), static_cast<std::int32_t>(first) + 1);
    Words positions(key, kStreamMaskPositions, drawn, work.words);
    std::int32_t* order = work.order.data();
    for (std::int64_t i = 0; i < drawn; ++i) {
        std::swap(order[i], order[i + positions.below(static_cast<std::uint32_t>(pool - i))]);
        rows[i] = order[i];
        if (pairs) rows[drawn + i] = order[i] + static_cast<std::int32_t>(pool);
    }
    Words actions(key, kStreamActions, count, work.words);
    for (std::int64_t i = 0; i < count; ++i) plan.action[rows[i]] = action_of(actions.next());
}

void apply_sample_mask(const MaskPlan& plan, const std::int32_t* cu_seqlens, std::int64_t sample,
                       std::int64_t patch_len, float* tokens, float* targets, MaskWork& work) {
    const DrawKey key = key_of(plan, sample);
    work.words.resize(std::max<std::size_t>(work.words.size(), static_cast<std::size_t>(patch_len)));
    for (std::int64_t m = plan.mask_cu[sample]; m < plan.mask_cu[sample + 1]; ++m) {
        const std::int64_t row = masked_row(plan, cu_seqlens, sample, m);
        float* patch = tokens + row * patch_len;
        std::copy_n(patch, patch_len, targets + m * patch_len);
        const std::uint8_t action = plan.action[row];
        if (action == kActionMask) {
            std::fill_n(patch, patch_len, kMaskValue);
        } else if (action == kActionRandom && plan.random != nullptr) {
            std::copy_n(plan.random + m * patch_len, patch_len, patch);
        } else if (action == kActionRandom) {
            draw_patch(key, row - cu_seqlens[sample], patch_len, work.words.data(), patch);
        }
    }
}

void draw_mask(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens, std::int64_t batch,
               std::int64_t num_tokens, TokenVersion version, int num_threads) {
    check_mask_counts(plan, num_masked, cu_seqlens, batch, num_tokens, version);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        MaskWork work;
        for (std::int64_t i = begin; i < end; ++i) draw_sample_mask(plan, cu_seqlens, i, version, work);
    };
    parallel_for(batch, samples_per_range(batch, 8 * num_tokens), num_threads, body);
}

void apply_mask(const MaskPlan& plan, std::int64_t num_masked, const std::int32_t* cu_seqlens, std::int64_t batch,
                float* tokens, std::int64_t num_tokens, TokenVersion version, float* targets, int num_threads) {
    check_mask_counts(plan, num_masked, cu_seqlens, batch, num_tokens, version);
    check_mask_rows(plan, cu_seqlens, batch);
    const std::int64_t patch_len = patch_length(version);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        MaskWork work;
        for (std::int64_t i = begin; i < end; ++i) {
            apply_sample_mask(plan, cu_seqlens, i, patch_len, tokens, targets, work);
        }
    };
    parallel_for(batch, samples_per_range(batch, num_masked * patch_len), num_threads, body);
}

}  // namespace lwm
