#include "collate.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "check_csi.h"
#include "dispatch.h"
#include "parallel.h"
#include "philox.h"

namespace lwm {
namespace {

std::string str(std::int64_t value) { return std::to_string(value); }

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_array_row(const ArraySource& source, const Packing& packing, std::int64_t i, std::int64_t row) {
    if (row < 0 || row >= source.count) {
        refuse("row[" + str(i) + "] is " + str(row) + " but its array holds " + str(source.count) + " samples");
    }
    if (source.antennas != packing.antennas(i) || source.subcarriers != packing.subcarriers(i)) {
        refuse("shape[" + str(i) + "] is " + str(packing.antennas(i)) + " x " + str(packing.subcarriers(i)) +
               " but its array holds channels of " + str(source.antennas) + " x " + str(source.subcarriers));
    }
}

struct Span {
    std::int64_t first, count;
};

// The user's rays, read once and checked: the offsets may lie in a mapped file that somebody writes to.
Span span_of(const RaySource& source, std::int64_t user) {
    const std::int64_t first = source.offsets[user], last = source.offsets[user + 1];
    if (first < 0 || last < first || last > source.rays.count) {
        refuse("user " + str(user) + " owns rays " + str(first) + ".." + str(last) + " of " +
               str(source.rays.count) + ": the offsets are damaged");
    }
    return {first, last - first};
}

void check_user(const Gather& gather, const RaySource& source, const Packing& packing, std::int64_t i,
                std::int64_t user) {
    if (user < 0 || user >= source.users) {
        refuse("row[" + str(i) + "] is " + str(user) + " but its rays are of " + str(source.users) + " users");
    }
    span_of(source, user);
    const std::int64_t vertical = gather.panel[2 * i], max_paths = gather.panel[2 * i + 1];
    if (vertical < 1 || packing.antennas(i) % vertical != 0 || max_paths < 1) {
        refuse("panel[" + str(i) + "] is (" + str(vertical) + ", " + str(max_paths) +
               "): expected a divisor of " + str(packing.antennas(i)) + " antennas and at least 1 path");
    }
    const SampleGeometry& own = gather.geometry[i];
    bool finite = std::isfinite(own.bandwidth) && own.bandwidth > 0.0 && std::isfinite(own.spacing);
    for (int k = 0; k < 3; ++k) finite = finite && std::isfinite(own.axis_h[k]) && std::isfinite(own.axis_v[k]);
    if (!finite) refuse("geometry[" + str(i) + "]: expected finite numbers and a positive bandwidth");
}

void check_gather(const Gather& gather, const Packing& packing) {
    const auto arrays = static_cast<std::int64_t>(gather.arrays.size());
    const std::int64_t sources = arrays + static_cast<std::int64_t>(gather.rays.size());
    for (std::int64_t i = 0; i < packing.batch; ++i) {
        const std::int64_t source = gather.source[i];
        if (source < 0 || source >= sources) {
            refuse("source[" + str(i) + "] is " + str(source) + " but there are " + str(sources) + " sources");
        }
        if (source < arrays) {
            check_array_row(gather.arrays[static_cast<std::size_t>(source)], packing, i, gather.row[i]);
        } else {
            check_user(gather, gather.rays[static_cast<std::size_t>(source - arrays)], packing, i, gather.row[i]);
        }
    }
}

struct RayWork {
    std::vector<double> doubles;
    std::vector<float> floats;
};

void gather_rays(const Gather& gather, const RaySource& source, const Packing& packing, std::int64_t i, float* csi,
                 RayWork& work) {
    const Span span = span_of(source, gather.row[i]);
    const std::int64_t first = span.first, count = std::min(gather.panel[2 * i + 1], span.count);
    const SampleGeometry& own = gather.geometry[i];
    RayGrid grid = {};
    grid.num_v = gather.panel[2 * i];
    grid.num_h = packing.antennas(i) / grid.num_v;
    grid.num_subcarriers = packing.subcarriers(i);
    std::copy_n(own.axis_h, 3, grid.axis_h);
    std::copy_n(own.axis_v, 3, grid.axis_v);
    grid.bandwidth = own.bandwidth;
    grid.spacing = own.spacing;
    const auto grow = [](auto& values, std::int64_t size) {
        values.resize(std::max(values.size(), static_cast<std::size_t>(size)));
    };
    grow(work.doubles, rays_scratch_doubles(grid, count));
    grow(work.floats, rays_scratch_floats(grid, count));
    const Rays& all = source.rays;
    const Rays rays = {all.power_db + first,   all.phase_deg + first,   all.delay_s + first,
                       all.zenith_deg + first, all.azimuth_deg + first, count};
    kernels().rays_user(grid, rays, {work.doubles.data(), work.floats.data()}, csi);
}

void gather_sample(const Gather& gather, const Packing& packing, std::int64_t i, float* csi, RayWork& work) {
    const auto source = static_cast<std::size_t>(gather.source[i]);
    const std::int64_t count = packing.antennas(i) * packing.subcarriers(i);
    if (source < gather.arrays.size()) {
        std::copy_n(gather.arrays[source].csi + 2 * count * gather.row[i], 2 * count, csi);
    } else {
        gather_rays(gather, gather.rays[source - gather.arrays.size()], packing, i, csi, work);
    }
    gather.flags[i] = flag_of(kernels().largest_bits(csi, count));
}

void add_sample_noise(const TokenStage& stage, const MaskPlan& plan, std::int64_t i, float* patches,
                      std::int64_t count) {
    const auto id = static_cast<std::uint64_t>(plan.sample_id[i]);
    const DrawKey key = {static_cast<std::uint32_t>(plan.seed), static_cast<std::uint32_t>(plan.seed >> 32),
                         static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(id >> 32), plan.epoch};
    kernels().add_noise(patches, count, stage.snr_db[i], key);
}

}  // namespace

void collate(const Batch& batch, const Gather* gather, const TokenStage* stage, const MaskPlan* plan,
             std::int64_t num_masked, bool draw, float* targets, int num_threads) {
    const Packing& packing = batch.packing;
    check_packing(packing, batch.version, batch.num_elements, batch.num_tokens);
    if (gather != nullptr) check_gather(*gather, packing);
    if (plan != nullptr) {
        check_mask_counts(*plan, num_masked, packing.cu_seqlens, packing.batch, batch.num_tokens, batch.version);
        if (!draw) check_mask_rows(*plan, packing.cu_seqlens, packing.batch);
    }
    const std::int64_t patch_len = patch_length(batch.version);
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        RayWork ray_work;
        MaskWork mask_work;
        for (std::int64_t i = begin; i < end; ++i) {
            float* csi = batch.csi + 2 * packing.offsets[i];
            if (gather != nullptr) gather_sample(*gather, packing, i, csi, ray_work);
            if (plan != nullptr && draw) draw_sample_mask(*plan, packing.cu_seqlens, i, batch.version, mask_work);
            if (stage == nullptr) continue;
            float* tokens = stage->tokens + packing.cu_seqlens[i] * patch_len;
            tokenize_sample(csi, packing, i, stage->scale, stage->cls, tokens, batch.version);
            if (plan == nullptr) continue;
            if (stage->snr_db != nullptr) {
                const std::int64_t rows = packing.cu_seqlens[i + 1] - packing.cu_seqlens[i] - 1;
                add_sample_noise(*stage, *plan, i, tokens + patch_len, rows * patch_len);
            }
            apply_sample_mask(*plan, packing.cu_seqlens, i, patch_len, stage->tokens, targets, mask_work);
        }
    };
    parallel_for(packing.batch, samples_per_range(packing.batch, batch.num_elements), num_threads, body);
}

}  // namespace lwm
