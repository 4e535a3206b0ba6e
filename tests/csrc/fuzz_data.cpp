// The operations of the training data engine on random and hostile sizes.
#include <algorithm>
#include <cmath>

#include "collate.h"
#include "fuzz.h"
#include "mask.h"

namespace fuzz {
namespace {

// A mask plan in exact buffers.
struct Plan {
    std::vector<std::int32_t> mask_cu{0}, masked_index;
    std::vector<std::uint8_t> action;
    std::vector<std::int64_t> sample_id;
    std::vector<float> random;

    lwm::MaskPlan view() {
        return {action.data(), masked_index.data(), mask_cu.data(), random.empty() ? nullptr : random.data(),
                sample_id.data(), 0x123456789abcdefu, 3};
    }
    std::int64_t count() const { return static_cast<std::int64_t>(masked_index.size()); }
};

Plan random_plan(Random& random, const Batch& batch, TokenVersion version) {
    Plan plan;
    for (std::size_t i = 0; i + 1 < batch.cu_seqlens.size(); ++i) {
        const std::int32_t patches = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i] - 1;
        const auto half = static_cast<std::int32_t>(random.integer(0, patches / 2));
        const std::int32_t count = version == TokenVersion::v1_0 ? 2 * half : std::min(patches, 2 * half + 1);
        plan.mask_cu.push_back(plan.mask_cu.back() + count);
        plan.sample_id.push_back(random.integer(-5, 5));
    }
    plan.masked_index.assign(static_cast<std::size_t>(plan.mask_cu.back()), -1);
    plan.action.assign(static_cast<std::size_t>(batch.cu_seqlens.back()), 255);
    return plan;
}

// Arrays and rays that the samples of a batch come from: one array for each sample, or rays of three users.
struct Sources {
    std::vector<std::vector<float>> memory;
    std::vector<std::int64_t> offsets{0};
    std::vector<std::int32_t> source;
    std::vector<std::int64_t> row, panel;
    std::vector<lwm::SampleGeometry> geometry;
    std::vector<std::uint8_t> flags;
    lwm::Gather gather;
};

void fill(Sources& sources, Random& random, const Batch& batch) {
    const Packing packing = batch.view();
    for (int user = 0; user < 3; ++user) sources.offsets.push_back(sources.offsets.back() + random.integer(0, 9));
    const std::int64_t rays = sources.offsets.back();
    for (int column = 0; column < 5; ++column) {
        sources.memory.push_back(random.reals(rays, 0.0f, column == 2 ? 1e-6f : 90.0f));
    }
    const auto& m = sources.memory;
    sources.gather.rays.push_back(
        {sources.offsets.data(), 3, {m[0].data(), m[1].data(), m[2].data(), m[3].data(), m[4].data(), rays}});
    std::vector<std::int64_t> counts;
    for (std::int64_t i = 0; i < packing.batch; ++i) {
        counts.push_back(random.integer(0, 3));
        const std::int64_t values = counts.back() * packing.antennas(i) * packing.subcarriers(i);
        sources.memory.push_back(random.reals(2 * values, -1.0f, 1.0f));
    }
    const auto arrays = static_cast<std::int32_t>(packing.batch);
    for (std::int64_t i = 0; i < packing.batch; ++i) {
        const auto place = static_cast<std::size_t>(i);
        const std::int64_t count = counts[place];
        sources.gather.arrays.push_back(
            {sources.memory[place + 5].data(), count, packing.antennas(i), packing.subcarriers(i)});
        const bool from_rays = count == 0 || random.integer(0, 1) == 0;
        sources.source.push_back(from_rays ? arrays : static_cast<std::int32_t>(i));
        sources.row.push_back(from_rays ? random.integer(0, 2) : random.integer(0, count - 1));
        sources.panel.push_back(packing.antennas(i) % 2 == 0 ? 2 : 1);
        sources.panel.push_back(random.integer(1, 12));
        sources.geometry.push_back({{0.0, 1.0, 0.0}, {0.0, 0.0, 1.0}, 1e6, 0.5});
    }
    sources.flags.assign(sources.row.size(), 255);
    sources.gather.source = sources.source.data();
    sources.gather.row = sources.row.data();
    sources.gather.panel = sources.panel.data();
    sources.gather.geometry = sources.geometry.data();
    sources.gather.flags = sources.flags.data();
}

// Everything that collate writes.
struct Outputs {
    std::vector<float> csi, tokens, targets;

    bool operator==(const Outputs& other) const {
        return csi == other.csi && tokens == other.tokens && targets == other.targets;
    }
};

Outputs collated(Sources& sources, const Batch& batch, TokenVersion version, Plan& plan,
                 const std::vector<float>& snr, bool draw, int threads) {
    const std::int64_t patch_len = lwm::patch_length(version);
    const std::int64_t elements = batch.offsets.back(), tokens = batch.cu_seqlens.back();
    Outputs out = {poisoned(2 * elements), poisoned(tokens * patch_len), poisoned(plan.count() * patch_len)};
    const std::vector<float> cls(static_cast<std::size_t>(patch_len), 0.2f);
    const float scale = 3.0f;
    const lwm::TokenStage stage = {{&scale, true}, {cls.data(), true}, out.tokens.data(), snr.data()};
    const lwm::MaskPlan view = plan.view();
    lwm::collate({batch.view(), version, out.csi.data(), elements, tokens}, &sources.gather, &stage, &view,
                 plan.count(), draw, out.targets.data(), threads);
    return out;
}

}  // namespace

void masks(Random& random, TokenVersion version) {
    const Batch batch = random_batch(random, version);
    const std::int64_t count = batch.view().batch, tokens = batch.cu_seqlens.back();
    const std::int64_t patch_len = lwm::patch_length(version);
    Plan plan = random_plan(random, batch, version), other = plan;
    const int threads = static_cast<int>(random.integer(2, 5));
    lwm::draw_mask(plan.view(), plan.count(), batch.cu_seqlens.data(), count, tokens, version, threads);
    lwm::draw_mask(other.view(), other.count(), batch.cu_seqlens.data(), count, tokens, version, 1);
    require(plan.masked_index == other.masked_index && plan.action == other.action, "masks depend on threads");
    std::vector<std::int32_t> rows = plan.masked_index;
    std::sort(rows.begin(), rows.end());
    require(std::adjacent_find(rows.begin(), rows.end()) == rows.end(), "a row is masked twice");
    const auto masked = std::count_if(plan.action.begin(), plan.action.end(), [](std::uint8_t a) { return a != 0; });
    require(masked == plan.count(), "actions and masked rows disagree");

    if (random.integer(0, 1) == 0) plan.random = random.reals(plan.count() * patch_len, 2.0f, 3.0f);
    std::vector<float> values = random.reals(tokens * patch_len, 5.0f, 6.0f);
    std::vector<float> targets = poisoned(plan.count() * patch_len);
    const std::vector<float> before = values;
    lwm::apply_mask(plan.view(), plan.count(), batch.cu_seqlens.data(), count, values.data(), tokens, version,
                    targets.data(), threads);
    for (std::size_t m = 0; m < plan.masked_index.size(); ++m) {
        const auto row = static_cast<std::size_t>(plan.masked_index[m] * patch_len);
        require(targets[m * static_cast<std::size_t>(patch_len)] == before[row], "a target is not the patch");
    }
}

// One entry of a valid plan is changed at random: refused, or harmless to the exact buffers.
void hostile_masks(Random& random, TokenVersion version) {
    const Batch batch = random_batch(random, version);
    const std::int64_t count = batch.view().batch, tokens = batch.cu_seqlens.back();
    const std::int64_t patch_len = lwm::patch_length(version);
    Plan plan = random_plan(random, batch, version);
    lwm::draw_mask(plan.view(), plan.count(), batch.cu_seqlens.data(), count, tokens, version, 1);
    const std::int64_t choices[] = {-1, 0, 1, random.integer(-100, 100000), 2147483647, -2147483647};
    const auto value = static_cast<std::int32_t>(choices[random.integer(0, 5)]);
    const auto change = [&](std::vector<std::int32_t>& entries) {
        if (entries.empty()) return;
        entries[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(entries.size()) - 1))] = value;
    };
    change(random.integer(0, 1) == 0 ? plan.mask_cu : plan.masked_index);
    std::vector<float> values(static_cast<std::size_t>(tokens * patch_len)),
        targets(static_cast<std::size_t>(plan.count() * patch_len));
    try {
        lwm::apply_mask(plan.view(), plan.count(), batch.cu_seqlens.data(), count, values.data(), tokens, version,
                        targets.data(), 2);
        lwm::draw_mask(plan.view(), plan.count(), batch.cu_seqlens.data(), count, tokens, version, 2);
    } catch (const std::invalid_argument&) {
    }
}

void collation(Random& random, TokenVersion version) {
    const Batch batch = random_batch(random, version);
    Sources sources;
    fill(sources, random, batch);
    Plan plan = random_plan(random, batch, version), other = plan;
    const std::vector<float> snr = random.reals(batch.view().batch, 0.0f, 30.0f);
    const Outputs first = collated(sources, batch, version, plan, snr, true, static_cast<int>(random.integer(2, 5)));
    for (const auto* values : {&first.csi, &first.tokens, &first.targets}) {
        for (const float value : *values) require(!std::isnan(value), "collate left a value unwritten");
    }
    for (const std::uint8_t flag : sources.flags) require(flag != 255 && flag != 1, "collate flags a good sample");
    require(first == collated(sources, batch, version, other, snr, true, 1), "batches depend on threads");
    require(first == collated(sources, batch, version, plan, snr, false, 2), "a drawn plan is applied otherwise");
    if (sources.row.empty()) return;
    sources.row.back() = random.integer(0, 1) == 0 ? -1 : 3;
    require_refusal([&] { collated(sources, batch, version, plan, snr, true, 1); }, "a missing row is accepted");
}

}  // namespace fuzz
