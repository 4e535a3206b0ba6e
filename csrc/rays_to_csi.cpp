#include "rays_to_csi.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "packing.h"
#include "parallel.h"

namespace lwm {
namespace {

void check_positive(const char* argument, std::int64_t value) {
    if (value < 1) {
        throw std::invalid_argument(std::string(argument) + ": got " + std::to_string(value) +
                                    ", expected at least 1");
    }
}

void check_number(const char* argument, double value, bool positive) {
    if (!std::isfinite(value) || (positive && value <= 0.0)) {
        throw std::invalid_argument(std::string(argument) + ": got " + std::to_string(value) + ", expected a " +
                                    (positive ? "positive" : "finite") + " number");
    }
}

}  // namespace

void rays_to_csi(const RayGrid& grid, const Rays& rays, const std::int64_t* offsets, std::int64_t num_users,
                 std::int64_t max_paths, float* out, int num_threads) {
    check_bounds("offsets", offsets, num_users, rays.count, "each ray array");
    check_positive("num_h", grid.num_h);
    check_positive("num_v", grid.num_v);
    check_positive("num_subcarriers", grid.num_subcarriers);
    check_positive("max_paths", max_paths);
    check_number("bandwidth", grid.bandwidth, true);
    check_number("spacing", grid.spacing, false);
    for (int i = 0; i < 3; ++i) {
        check_number("axis_h", grid.axis_h[i], false);
        check_number("axis_v", grid.axis_v[i], false);
    }

    const Kernels& run = kernels();
    const std::int64_t matrix = 2 * grid.num_h * grid.num_v * grid.num_subcarriers;
    const auto rays_of = [&](std::int64_t user) {
        return std::min(max_paths, offsets[user + 1] - offsets[user]);
    };
    const auto body = [&](std::int64_t begin, std::int64_t end) {
        std::int64_t most = 0;
        for (std::int64_t user = begin; user < end; ++user) most = std::max(most, rays_of(user));
        std::vector<double> doubles(static_cast<std::size_t>(rays_scratch_doubles(grid, most)));
        std::vector<float> floats(static_cast<std::size_t>(rays_scratch_floats(grid, most)));
        const RayScratch scratch = {doubles.data(), floats.data()};
        for (std::int64_t user = begin; user < end; ++user) {
            const std::int64_t first = offsets[user];
            const Rays own = {rays.power_db + first,   rays.phase_deg + first,   rays.delay_s + first,
                              rays.zenith_deg + first, rays.azimuth_deg + first, rays_of(user)};
            run.rays_user(grid, own, scratch, out + user * matrix);
        }
    };
    parallel_for(num_users, samples_per_range(num_users, num_users * matrix), num_threads, body);
}

}  // namespace lwm
