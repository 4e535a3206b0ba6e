// Tokenising loops. Every value is one float32 multiplication (or division), so all instruction sets agree
// bit for bit.
#include "isa.h"
#include "kernels.h"

namespace lwm::LWM_ISA {

void split_complex(const float* csi, std::int64_t count, float scale, float* real, float* imag);
void join_complex(const float* real, const float* imag, std::int64_t count, float scale, float* csi);
void cut_patches(const float* csi, std::int64_t num_antennas, std::int64_t num_subcarriers, float scale,
                 float* patches);
void paste_patches(const float* patches, std::int64_t num_antennas, std::int64_t num_subcarriers, float scale,
                   float* csi);

namespace {

constexpr std::int64_t kSide = 4;              // antennas and subcarriers of a patch
constexpr std::int64_t kRow = 2 * kSide;       // floats of one antenna in a patch
constexpr std::int64_t kPatch = kSide * kRow;  // floats of a patch

void scale_row(const float* __restrict source, float scale, float* __restrict target) {
    for (std::int64_t i = 0; i < kRow; ++i) target[i] = source[i] * scale;
}

// A patch that sticks out of the matrix: `antennas` x `subcarriers` of it are real, the rest zeros.
void cut_edge_patch(const float* csi, std::int64_t row_stride, std::int64_t antennas, std::int64_t subcarriers,
                    float scale, float* patch) {
    for (std::int64_t a = 0; a < kSide; ++a) {
        const std::int64_t filled = a < antennas ? 2 * subcarriers : 0;
        for (std::int64_t i = 0; i < filled; ++i) patch[a * kRow + i] = csi[a * row_stride + i] * scale;
        for (std::int64_t i = filled; i < kRow; ++i) patch[a * kRow + i] = 0.0f;
    }
}

std::int64_t at_most(std::int64_t value, std::int64_t limit) { return value < limit ? value : limit; }

}  // namespace

void split_complex(const float* __restrict csi, std::int64_t count, float scale, float* __restrict real,
                   float* __restrict imag) {
    for (std::int64_t i = 0; i < count; ++i) {
        real[i] = csi[2 * i] * scale;
        imag[i] = csi[2 * i + 1] * scale;
    }
}

void join_complex(const float* __restrict real, const float* __restrict imag, std::int64_t count, float scale,
                  float* __restrict csi) {
    for (std::int64_t i = 0; i < count; ++i) {
        csi[2 * i] = real[i] / scale;
        csi[2 * i + 1] = imag[i] / scale;
    }
}

void cut_patches(const float* csi, std::int64_t num_antennas, std::int64_t num_subcarriers, float scale,
                 float* patches) {
    const std::int64_t stride = 2 * num_subcarriers;
    for (std::int64_t a = 0; a < num_antennas; a += kSide) {
        const std::int64_t antennas = at_most(num_antennas - a, kSide);
        const float* rows = csi + a * stride;
        std::int64_t s = 0;
        if (antennas == kSide) {
            for (; s + kSide <= num_subcarriers; s += kSide, patches += kPatch) {
                for (std::int64_t r = 0; r < kSide; ++r) {
                    scale_row(rows + r * stride + 2 * s, scale, patches + r * kRow);
                }
            }
        }
        for (; s < num_subcarriers; s += kSide, patches += kPatch) {
            cut_edge_patch(rows + 2 * s, stride, antennas, at_most(num_subcarriers - s, kSide), scale, patches);
        }
    }
}

void paste_patches(const float* patches, std::int64_t num_antennas, std::int64_t num_subcarriers, float scale,
                   float* csi) {
    const std::int64_t stride = 2 * num_subcarriers;
    for (std::int64_t a = 0; a < num_antennas; a += kSide) {
        const std::int64_t antennas = at_most(num_antennas - a, kSide);
        for (std::int64_t s = 0; s < num_subcarriers; s += kSide, patches += kPatch) {
            const std::int64_t filled = 2 * at_most(num_subcarriers - s, kSide);
            for (std::int64_t r = 0; r < antennas; ++r) {
                float* row = csi + (a + r) * stride + 2 * s;
                for (std::int64_t i = 0; i < filled; ++i) row[i] = patches[r * kRow + i] / scale;
            }
        }
    }
}

}  // namespace lwm::LWM_ISA
