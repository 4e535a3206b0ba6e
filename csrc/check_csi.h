// Which samples hold NaN or Inf, which are all zero, and how large they are.
#pragma once

#include <cstdint>

namespace lwm {

constexpr std::uint8_t kFlagNotFinite = 1;
constexpr std::uint8_t kFlagAllZero = 2;

// The flag of a sample whose largest |bit pattern| is this (see Kernels::largest_bits).
std::uint8_t flag_of(std::uint32_t largest_bits);

// flags [batch]; mean_abs [batch] or null: mean |h| of each sample. An empty sample counts as all zero.
// Throws std::invalid_argument for offsets that leave the num_elements complex values of csi.
void check_csi(const float* csi, std::int64_t num_elements, const std::int64_t* offsets, std::int64_t batch,
               std::uint8_t* flags, float* mean_abs, int num_threads);

}  // namespace lwm
