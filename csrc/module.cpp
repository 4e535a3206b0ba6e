// Python bindings of lwm_fast._C: argument checks and pointers, nothing else.
#include <pybind11/stl.h>

#include <array>

#include "bindings.h"
#include "check_csi.h"
#include "dispatch.h"
#include "noise.h"
#include "parallel.h"
#include "philox.h"
#include "rays_to_csi.h"
#include "tokenize.h"

namespace lwm {
namespace {

void py_tokenize(const py::object& csi, const py::object& offsets, const py::object& shape,
                 const py::object& cu_seqlens, const py::object& scale, const py::object& cls,
                 const py::object& out, int version, int num_threads) {
    const TokenVersion token = token_version(version);
    const std::int64_t patch_len = patch_length(token);
    const PackingCopy packing(offsets, shape, cu_seqlens);
    const float* source = parts(checked_data<Complex>("csi", csi, {kAnySize}, Access::read));
    float* target = checked_data<float>("out", out, {kAnySize, patch_len}, Access::write);
    const PerSample factor = per_sample("scale", scale, packing.batch(), 1);
    const PerSample first = per_sample("cls", cls, packing.batch(), patch_len);
    check_apart("csi", csi, "out", out);
    const std::int64_t num_elements = size_of(csi), num_tokens = size_of(out) / patch_len;
    const py::gil_scoped_release unlocked;
    tokenize(source, num_elements, packing.view(), factor, first, target, num_tokens, token, num_threads);
}

void py_detokenize(const py::object& tokens, const py::object& offsets, const py::object& shape,
                   const py::object& cu_seqlens, const py::object& scale, const py::object& out, int version,
                   int num_threads) {
    const TokenVersion token = token_version(version);
    const std::int64_t patch_len = patch_length(token);
    const PackingCopy packing(offsets, shape, cu_seqlens);
    const float* source = checked_data<float>("tokens", tokens, {kAnySize, patch_len}, Access::read);
    float* target = parts(checked_data<Complex>("out", out, {kAnySize}, Access::write));
    const PerSample factor = per_sample("scale", scale, packing.batch(), 1);
    check_apart("tokens", tokens, "out", out);
    const std::int64_t num_elements = size_of(out), num_tokens = size_of(tokens) / patch_len;
    const py::gil_scoped_release unlocked;
    detokenize(source, num_tokens, packing.view(), factor, target, num_elements, token, num_threads);
}

void py_add_noise(const py::object& tokens, const py::object& cu_seqlens, const py::object& snr_db,
                  const py::object& sample_id, std::uint64_t seed, std::uint32_t epoch, int num_threads) {
    float* values = checked_data<float>("tokens", tokens, {kAnySize, kAnySize}, Access::write);
    const std::int64_t patch_len = py::reinterpret_borrow<py::array>(tokens).shape(1);
    const std::int64_t num_tokens = py::reinterpret_borrow<py::array>(tokens).shape(0);
    const auto bounds = checked_copy<std::int32_t>("cu_seqlens", cu_seqlens, {kAnySize});
    if (bounds.empty()) throw py::value_error("cu_seqlens: expected batch + 1 entries, got none");
    const auto batch = static_cast<std::int64_t>(bounds.size()) - 1;
    const float* ratio = checked_data<float>("snr_db", snr_db, {batch}, Access::read);
    const auto* ids = checked_data<std::int64_t>("sample_id", sample_id, {batch}, Access::read);
    check_apart("snr_db", snr_db, "tokens", tokens);
    const py::gil_scoped_release unlocked;
    add_noise(values, num_tokens, patch_len, bounds.data(), batch, ratio, ids, seed, epoch, num_threads);
}

void py_rays_to_csi(const py::object& offsets, const py::object& power_db, const py::object& phase_deg,
                    const py::object& delay_s, const py::object& zenith_deg, const py::object& azimuth_deg,
                    const std::array<double, 3>& axis_h, const std::array<double, 3>& axis_v,
                    const py::object& out, std::int64_t num_v, double bandwidth, double spacing,
                    std::int64_t max_paths, int num_threads) {
    const auto bounds = checked_copy<std::int64_t>("offsets", offsets, {kAnySize});
    if (bounds.empty()) throw py::value_error("offsets: expected num_users + 1 entries, got none");
    const auto num_users = static_cast<std::int64_t>(bounds.size()) - 1;
    Rays rays = {};
    rays.power_db = checked_data<float>("power_db", power_db, {kAnySize}, Access::read);
    rays.count = size_of(power_db);
    rays.phase_deg = checked_data<float>("phase_deg", phase_deg, {rays.count}, Access::read);
    rays.delay_s = checked_data<float>("delay_s", delay_s, {rays.count}, Access::read);
    rays.zenith_deg = checked_data<float>("zenith_deg", zenith_deg, {rays.count}, Access::read);
    rays.azimuth_deg = checked_data<float>("azimuth_deg", azimuth_deg, {rays.count}, Access::read);
    float* target = parts(checked_data<Complex>("out", out, {num_users, kAnySize, kAnySize}, Access::write));
    const auto matrix = py::reinterpret_borrow<py::array>(out);
    const std::int64_t num_antennas = matrix.shape(1);
    if (num_v < 1 || num_antennas % num_v != 0) {
        throw py::value_error("num_v: got " + std::to_string(num_v) + ", expected a divisor of out's " +
                              std::to_string(num_antennas) + " antennas");
    }
    RayGrid grid = {};
    grid.num_h = num_antennas / num_v;
    grid.num_v = num_v;
    grid.num_subcarriers = matrix.shape(2);
    grid.bandwidth = bandwidth;
    grid.spacing = spacing;
    for (std::size_t i = 0; i < 3; ++i) {
        grid.axis_h[i] = axis_h[i];
        grid.axis_v[i] = axis_v[i];
    }
    const py::gil_scoped_release unlocked;
    rays_to_csi(grid, rays, bounds.data(), num_users, max_paths, target, num_threads);
}

void py_check_csi(const py::object& csi, const py::object& offsets, const py::object& flags,
                  const py::object& mean_abs, int num_threads) {
    const auto bounds = checked_copy<std::int64_t>("offsets", offsets, {kAnySize});
    if (bounds.empty()) throw py::value_error("offsets: expected batch + 1 entries, got none");
    const auto batch = static_cast<std::int64_t>(bounds.size()) - 1;
    const float* source = parts(checked_data<Complex>("csi", csi, {kAnySize}, Access::read));
    auto* target = checked_data<std::uint8_t>("flags", flags, {batch}, Access::write);
    float* means = nullptr;
    if (!mean_abs.is_none()) means = checked_data<float>("mean_abs", mean_abs, {batch}, Access::write);
    const std::int64_t num_elements = size_of(csi);
    const py::gil_scoped_release unlocked;
    check_csi(source, num_elements, bounds.data(), batch, target, means, num_threads);
}

void py_philox(const py::object& counter, const std::array<std::uint32_t, 2>& key, const py::object& out) {
    const auto* source = checked_data<std::uint32_t>("counter", counter, {kAnySize, 4}, Access::read);
    const std::int64_t count = size_of(counter) / 4;
    auto* target = checked_data<std::uint32_t>("out", out, {count, 4}, Access::write);
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint32_t words[4][1];
        for (int w = 0; w < 4; ++w) words[w][0] = source[4 * i + w];
        philox(words, key[0], key[1]);
        for (int w = 0; w < 4; ++w) target[4 * i + w] = words[w][0];
    }
}

py::dict py_cpu_info() {
    py::list isas;
    for (const Isa isa : available_isas()) isas.append(isa_name(isa));
    py::dict info;
    info["features"] = py::cast(cpu_features());
    info["available_isas"] = isas;
    info["isa"] = isa_name(chosen_isa());
    info["num_threads"] = default_num_threads();
    return info;
}

}  // namespace
}  // namespace lwm

PYBIND11_MODULE(_C, module) {
    namespace py = pybind11;
    using py::arg;
    module.doc() = "Native operations of lwm_fast over numpy arrays.";
    module.attr("__version__") = LWM_FAST_VERSION;
    module.def("cpu_info", &lwm::py_cpu_info, "CPU features, instruction sets and default thread count.");
    module.def("tokenize", &lwm::py_tokenize, arg("csi"), arg("offsets"), arg("shape"), arg("cu_seqlens"),
               arg("scale"), arg("cls"), arg("out"), arg("version"), arg("num_threads") = 0,
               "Packed complex64 channels to tokens, in `out`.");
    module.def("detokenize", &lwm::py_detokenize, arg("tokens"), arg("offsets"), arg("shape"),
               arg("cu_seqlens"), arg("scale"), arg("out"), arg("version"), arg("num_threads") = 0,
               "The inverse of tokenize, in `out`.");
    module.def("add_noise", &lwm::py_add_noise, arg("tokens"), arg("cu_seqlens"), arg("snr_db"),
               arg("sample_id"), arg("seed"), arg("epoch"), arg("num_threads") = 0,
               "Adds Gaussian noise at a signal-to-noise ratio per sample, in place.");
    module.def("rays_to_csi", &lwm::py_rays_to_csi, arg("offsets"), arg("power_db"), arg("phase_deg"),
               arg("delay_s"), arg("zenith_deg"), arg("azimuth_deg"), arg("axis_h"), arg("axis_v"), arg("out"),
               arg("num_v") = 1, arg("bandwidth") = 30e3 * 32, arg("spacing") = 0.5, arg("max_paths") = 20,
               arg("num_threads") = 0, "Channel matrices of users from their rays, in `out`.");
    module.def("check_csi", &lwm::py_check_csi, arg("csi"), arg("offsets"), arg("flags"),
               arg("mean_abs") = py::none(), arg("num_threads") = 0,
               "Flags NaN/Inf (1) and all-zero (2) samples, in `flags`; mean |h| in `mean_abs`.");
    module.def("philox", &lwm::py_philox, arg("counter"), arg("key"), arg("out"),
               "Philox-4x32-10 of each counter row, in `out`.");
    lwm::bind_data(module);
    lwm::bind_training(module);
    lwm::bind_encoder(module);
}
