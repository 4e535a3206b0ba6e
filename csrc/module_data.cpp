// Bindings of the training data engine: masks and collation.
#include <optional>

#include "bindings.h"
#include "collate.h"
#include "mask.h"

namespace lwm {
namespace {

// The arrays of a mask plan. masked_index is read in place: it is checked entry by entry where it is used.
struct PlanArrays {
    std::vector<std::int32_t> mask_cu;
    std::vector<std::int64_t> sample_id;
    MaskPlan plan;
    std::int64_t num_masked;

    PlanArrays(const py::object& action, const py::object& masked_index, const py::object& mask_cu_,
               const py::object& sample_id_, const py::object& random, std::uint64_t seed, std::uint32_t epoch,
               std::int64_t batch, std::int64_t num_tokens, std::int64_t patch_len, Access access)
        : mask_cu(checked_copy<std::int32_t>("mask_cu", mask_cu_, {batch + 1})),
          sample_id(checked_copy<std::int64_t>("sample_id", sample_id_, {batch})) {
        plan.action = checked_data<std::uint8_t>("action", action, {num_tokens}, access);
        plan.masked_index = checked_data<std::int32_t>("masked_index", masked_index, {kAnySize}, access);
        num_masked = size_of(masked_index);
        plan.random = nullptr;
        if (!random.is_none()) {
            plan.random = checked_data<float>("random", random, {num_masked, patch_len}, Access::read);
        }
        plan.mask_cu = mask_cu.data();
        plan.sample_id = sample_id.data();
        plan.seed = seed;
        plan.epoch = epoch;
    }
    PlanArrays(const PlanArrays&) = delete;
    PlanArrays& operator=(const PlanArrays&) = delete;
};

std::vector<std::int32_t> checked_cu_seqlens(const py::object& cu_seqlens) {
    auto copy = checked_copy<std::int32_t>("cu_seqlens", cu_seqlens, {kAnySize});
    if (copy.empty()) throw py::value_error("cu_seqlens: expected batch + 1 entries, got none");
    return copy;
}

void py_draw_mask(const py::object& cu_seqlens, const py::object& mask_cu, const py::object& sample_id,
                  const py::object& action, const py::object& masked_index, int version, std::uint64_t seed,
                  std::uint32_t epoch, int num_threads) {
    const TokenVersion token = token_version(version);
    const auto bounds = checked_cu_seqlens(cu_seqlens);
    const auto batch = static_cast<std::int64_t>(bounds.size()) - 1;
    checked_data<std::uint8_t>("action", action, {kAnySize}, Access::write);
    const std::int64_t num_tokens = size_of(action);
    const PlanArrays arrays(action, masked_index, mask_cu, sample_id, py::none(), seed, epoch, batch, num_tokens,
                            patch_length(token), Access::write);
    const py::gil_scoped_release unlocked;
    draw_mask(arrays.plan, arrays.num_masked, bounds.data(), batch, num_tokens, token, num_threads);
}

void py_apply_mask(const py::object& tokens, const py::object& cu_seqlens, const py::object& action,
                   const py::object& masked_index, const py::object& mask_cu, const py::object& sample_id,
                   const py::object& targets, int version, std::uint64_t seed, std::uint32_t epoch,
                   const py::object& random, int num_threads) {
    const TokenVersion token = token_version(version);
    const std::int64_t patch_len = patch_length(token);
    const auto bounds = checked_cu_seqlens(cu_seqlens);
    const auto batch = static_cast<std::int64_t>(bounds.size()) - 1;
    float* values = checked_data<float>("tokens", tokens, {kAnySize, patch_len}, Access::write);
    const std::int64_t num_tokens = size_of(tokens) / patch_len;
    const PlanArrays arrays(action, masked_index, mask_cu, sample_id, random, seed, epoch, batch, num_tokens, patch_len,
                            Access::read);
    float* saved = checked_data<float>("targets", targets, {arrays.num_masked, patch_len}, Access::write);
    check_apart("tokens", tokens, "targets", targets);
    const py::gil_scoped_release unlocked;
    apply_mask(arrays.plan, arrays.num_masked, bounds.data(), batch, values, num_tokens, token, saved, num_threads);
}

ArraySource array_source(const py::object& object) {
    Complex* csi = checked_data<Complex>("arrays", object, {kAnySize, kAnySize, kAnySize}, Access::read);
    const auto array = py::reinterpret_borrow<py::array>(object);
    return {parts(csi), array.shape(0), array.shape(1), array.shape(2)};
}

// (offsets, power_db, phase_deg, delay_s, zenith_deg, azimuth_deg)
RaySource ray_source(const py::tuple& columns) {
    if (columns.size() != 6) throw py::value_error("rays: expected tuples of 6 arrays, offsets first");
    const py::object offsets = columns[0];
    const auto* bounds = checked_data<std::int64_t>("rays: offsets", offsets, {kAnySize}, Access::read);
    if (size_of(offsets) == 0) throw py::value_error("rays: offsets must have num_users + 1 entries, got none");
    const py::object power = columns[1];
    checked_data<float>("rays: power_db", power, {kAnySize}, Access::read);
    const std::int64_t count = size_of(power);
    const auto column = [&](std::size_t i) {
        return static_cast<const float*>(
            checked_data<float>("rays: each column", py::object(columns[i]), {count}, Access::read));
    };
    return {bounds, size_of(offsets) - 1, {column(1), column(2), column(3), column(4), column(5), count}};
}

// The gather stage with private copies of its index arrays.
struct GatherArrays {
    std::vector<std::int32_t> source;
    std::vector<std::int64_t> row, panel;
    std::vector<SampleGeometry> geometry;
    Gather gather;

    GatherArrays(const py::list& arrays, const py::list& rays, const py::object& source_, const py::object& row_,
                 const py::object& geometry_, const py::object& panel_, const py::object& flags, std::int64_t batch)
        : source(checked_copy<std::int32_t>("source", source_, {batch})),
          row(checked_copy<std::int64_t>("row", row_, {batch})) {
        for (const py::handle& item : arrays) {
            gather.arrays.push_back(array_source(py::reinterpret_borrow<py::object>(item)));
        }
        for (const py::handle& item : rays) gather.rays.push_back(ray_source(py::cast<py::tuple>(item)));
        if (!gather.rays.empty()) {
            panel = checked_copy<std::int64_t>("panel", panel_, {batch, 2});
            for (std::int64_t i = 0; i < batch; ++i) geometry.push_back(geometry_row(geometry_, batch, i));
        }
        gather.source = source.data();
        gather.row = row.data();
        gather.panel = panel.data();
        gather.geometry = geometry.data();
        gather.flags = checked_data<std::uint8_t>("flags", flags, {batch}, Access::write);
    }
    GatherArrays(const GatherArrays&) = delete;
    GatherArrays& operator=(const GatherArrays&) = delete;

private:
    static SampleGeometry geometry_row(const py::object& object, std::int64_t batch, std::int64_t i) {
        const double* v = checked_data<double>("geometry", object, {batch, 8}, Access::read) + 8 * i;
        return {{v[0], v[1], v[2]}, {v[3], v[4], v[5]}, v[6], v[7]};
    }
};

void py_collate(const py::object& csi, const py::object& offsets, const py::object& shape, const py::object& cu_seqlens,
                int version, const py::list& arrays, const py::list& rays, const py::object& source,
                const py::object& row, const py::object& geometry, const py::object& panel, const py::object& flags,
                const py::object& tokens, const py::object& scale, const py::object& cls, const py::object& snr_db,
                const py::object& action, const py::object& masked_index, const py::object& mask_cu,
                const py::object& targets, const py::object& random, bool draw, const py::object& sample_id,
                std::uint64_t seed, std::uint32_t epoch, int num_threads) {
    const TokenVersion token = token_version(version);
    const std::int64_t patch_len = patch_length(token);
    const PackingCopy packing(offsets, shape, cu_seqlens);
    const std::int64_t count = packing.batch();
    const bool gathers = !source.is_none(), makes_tokens = !tokens.is_none();
    const Access access = gathers ? Access::write : Access::read;
    Batch batch = {packing.view(), token, parts(checked_data<Complex>("csi", csi, {kAnySize}, access)), size_of(csi),
                   packing.cu_seqlens.back()};
    std::optional<GatherArrays> gather;
    if (gathers) gather.emplace(arrays, rays, source, row, geometry, panel, flags, count);
    const PlanArrays plan(action, masked_index, mask_cu, sample_id, random, seed, epoch, count, batch.num_tokens,
                          patch_len, draw ? Access::write : Access::read);
    TokenStage stage = {};
    float* saved = nullptr;
    if (makes_tokens) {
        stage.tokens = checked_data<float>("tokens", tokens, {batch.num_tokens, patch_len}, Access::write);
        stage.scale = per_sample("scale", scale, count, 1);
        stage.cls = per_sample("cls", cls, count, patch_len);
        if (!snr_db.is_none()) stage.snr_db = checked_data<float>("snr_db", snr_db, {count}, Access::read);
        saved = checked_data<float>("targets", targets, {plan.num_masked, patch_len}, Access::write);
        check_apart("csi", csi, "tokens", tokens);
    }
    const py::gil_scoped_release unlocked;
    collate(batch, gathers ? &gather->gather : nullptr, makes_tokens ? &stage : nullptr, &plan.plan, plan.num_masked,
            draw, saved, num_threads);
}

}  // namespace

void bind_data(py::module_& module) {
    using py::arg;
    const py::none none;
    module.def("draw_mask", &py_draw_mask, arg("cu_seqlens"), arg("mask_cu"), arg("sample_id"), arg("action"),
               arg("masked_index"), arg("version"), arg("seed"), arg("epoch"), arg("num_threads") = 0,
               "Draws which tokens are masked and how, in `action` and `masked_index`.");
    module.def("apply_mask", &py_apply_mask, arg("tokens"), arg("cu_seqlens"), arg("action"), arg("masked_index"),
               arg("mask_cu"), arg("sample_id"), arg("targets"), arg("version"), arg("seed"), arg("epoch"),
               arg("random") = none, arg("num_threads") = 0,
               "Saves the masked rows in `targets` and overwrites them in `tokens`.");
    module.def("collate", &py_collate, arg("csi"), arg("offsets"), arg("shape"), arg("cu_seqlens"), arg("version"),
               py::kw_only(), arg("arrays") = py::list(), arg("rays") = py::list(), arg("source") = none,
               arg("row") = none, arg("geometry") = none, arg("panel") = none, arg("flags") = none,
               arg("tokens") = none, arg("scale") = none, arg("cls") = none, arg("snr_db") = none, arg("action"),
               arg("masked_index"), arg("mask_cu"), arg("targets") = none, arg("random") = none, arg("draw"),
               arg("sample_id"), arg("seed"), arg("epoch"), arg("num_threads") = 0,
               "A training batch in one pass: gather, check, tokenise, add noise, mask, save the targets.");
}

}  // namespace lwm
