// Channel matrices from traced rays (the model of the DeepMIMO generator, as LWM uses it).
#pragma once

#include <cstdint>

#include "kernels.h"

namespace lwm {

// H[m, k] = sum_p sqrt(10^(power_db/10) / SC) exp(j phase) exp(-j 2 pi k delay B / SC)
//                 exp(j 2 pi spacing (h axis_h . d + v axis_v . d)),   m = v * num_h + h,
// with d = (sin zen cos az, sin zen sin az, cos zen): h runs fastest, as in the DeepMIMO generator.
// Each user's first max_paths rays count, those with delay * B >= SC are dropped.
//
// rays: num_rays values behind each pointer; offsets [num_users + 1] cut them into users.
// out: [num_users, num_h * num_v, SC] complex values as float pairs.
// Throws std::invalid_argument for offsets outside the rays and for sizes that are not positive.
void rays_to_csi(const RayGrid& grid, const Rays& rays, const std::int64_t* offsets, std::int64_t num_users,
                 std::int64_t max_paths, float* out, int num_threads);

}  // namespace lwm
