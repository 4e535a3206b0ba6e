// Gaussian noise from Philox and Box-Muller. Compiled without fused multiply-adds and without library
// functions whose last bit differs between instruction sets: all of them give the same noise.
#include "isa.h"
#include "kernels.h"
#include "philox.h"
#include "real_math.h"

namespace lwm::LWM_ISA {

void add_noise(float* values, std::int64_t count, float snr_db, const DrawKey& key);

namespace {

constexpr int kLanes = 16;           // Philox blocks drawn together
constexpr int kBatch = 4 * kLanes;   // Gaussians they give

double mean_square(const float* values, std::int64_t count) {
    double sums[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const double value = values[i + lane];
            sums[lane] += value * value;
        }
    }
    double sum = 0.0;
    for (; i < count; ++i) sum += double{values[i]} * double{values[i]};
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    return sum / static_cast<double>(count);
}

// Two standard normal values per pair of uniforms (k >> 8) * 2^-24, written 4 floats apart.
void box_muller(const std::uint32_t (&first)[kLanes], const std::uint32_t (&second)[kLanes], float* normal) {
    constexpr double kUnit = 1.0 / 16777216.0;
    for (int i = 0; i < kLanes; ++i) {
        const double u = static_cast<double>(static_cast<std::int32_t>(first[i] >> 8)) * kUnit;
        const double t = static_cast<double>(static_cast<std::int32_t>(second[i] >> 8)) * kUnit;
        const double radius = std::sqrt(-2.0 * log_unit(1.0 - u));
        double cosine, sine;
        cos_sin_turns(t - round_small(t), &cosine, &sine);
        normal[4 * i] = static_cast<float>(radius * cosine);
        normal[4 * i + 1] = static_cast<float>(radius * sine);
    }
}

void draw_normal(const DrawKey& key, std::uint32_t first_block, float (&normal)[kBatch]) {
    std::uint32_t words[4][kLanes];
    for (int i = 0; i < kLanes; ++i) {
        words[0][i] = key.sample_low;
        words[1][i] = key.sample_high;
        words[2][i] = key.epoch;
        words[3][i] = (kStreamNoise << 24) | (first_block + static_cast<std::uint32_t>(i));
    }
    philox(words, key.seed_low, key.seed_high);
    box_muller(words[0], words[1], normal);
    box_muller(words[2], words[3], normal + 2);
}

}  // namespace

void add_noise(float* values, std::int64_t count, float snr_db, const DrawKey& key) {
    const double snr = std::pow(10.0, double{snr_db} / 10.0);
    const float sigma = static_cast<float>(std::sqrt(mean_square(values, count) / snr));
    float normal[kBatch];
    for (std::int64_t begin = 0; begin < count; begin += kBatch) {
        draw_normal(key, static_cast<std::uint32_t>(begin / 4), normal);
        const std::int64_t left = count - begin;
        const std::int64_t length = left < kBatch ? left : kBatch;
        for (std::int64_t i = 0; i < length; ++i) values[begin + i] += sigma * normal[i];
    }
}

}  // namespace lwm::LWM_ISA
