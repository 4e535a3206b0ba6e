// The row operations of a training step: each goes once over its rows, which stay in the nearest cache.
#include <cmath>

#include "train_vector.h"
#include "training_kernels.h"

namespace lwm::LWM_ISA {

void draw_keep(const KeepPlan& keep, std::int64_t row, std::int64_t count, std::uint8_t* out);
void norm_forward(const NormForward& op, std::int64_t begin, std::int64_t end);
void norm_backward(const NormBackward& op, std::int64_t begin, std::int64_t end, float* sums);
void relu_dropout(float* h, const float* bias, std::int64_t width, const KeepPlan* keep, std::int64_t begin,
                  std::int64_t end);
void relu_dropout_backward(float* dh, const float* h, std::int64_t width, float scale, std::int64_t begin,
                           std::int64_t end, float* sums);
void dropout_add(float* out, const float* bias, const float* residual, std::int64_t width,
                 const KeepPlan* keep, std::int64_t begin, std::int64_t end);
void dropout_backward(const float* dy, float* out, std::int64_t width, const KeepPlan* keep,
                      std::int64_t begin, std::int64_t end, float* sums);

namespace {

constexpr float kEps = 1e-6f;        // added to the standard deviation
constexpr std::int64_t kPiece = 512;  // features whose keep bytes are held at a time

// Calls body(first, last, keep bytes or null) for the pieces of a row.
template <typename Body>
inline void in_pieces(const KeepPlan* keep, std::int64_t row, std::int64_t width, const Body& body) {
    if (keep == nullptr) return body(0, width, nullptr);
    std::uint8_t bytes[kPiece];
    KeepPlan plan = *keep;
    for (std::int64_t first = 0; first < width; first += kPiece) {
        const std::int64_t last = width - first < kPiece ? width : first + kPiece;
        draw_keep(plan, row, last - first, bytes);
        body(first, last, bytes);
        plan.first_block += static_cast<std::uint32_t>(kPiece / 4);
    }
}

struct Moments {
    float first, second;
};

// Sums of f(i) and g(i) over a row, vector by vector; `lanes(i)` gives both for a whole vector, `one(i)` for an
// entry of the ragged end.
template <typename Lanes, typename One>
inline Moments sum_row(std::int64_t width, const Lanes& lanes, const One& one) {
    FloatVector first = splat(0.0f), second = splat(0.0f);
    std::int64_t i = 0;
    for (; i + kVectorWidth <= width; i += kVectorWidth) lanes(i, first, second);
    Moments sums = {sum_lanes(first), sum_lanes(second)};
    for (; i < width; ++i) one(i, sums);
    return sums;
}

float mean_of(const float* z, std::int64_t width) {
    const Moments sums = sum_row(
        width, [&](std::int64_t i, FloatVector& a, FloatVector&) { a = a + load(z + i); },
        [&](std::int64_t i, Moments& s) { s.first += z[i]; });
    return sums.first / static_cast<float>(width);
}

float squares_of(const float* z, std::int64_t width, float mean) {
    const Moments sums = sum_row(
        width,
        [&](std::int64_t i, FloatVector& a, FloatVector&) {
            const FloatVector d = load(z + i) - splat(mean);
            a = a + d * d;
        },
        [&](std::int64_t i, Moments& s) { s.first += (z[i] - mean) * (z[i] - mean); });
    return sums.first;
}

}  // namespace

void norm_forward(const NormForward& op, std::int64_t begin, std::int64_t end) {
    const std::int64_t width = op.width;
    for (std::int64_t row = begin; row < end; ++row) {
        const float* u = op.u + row * width;
        const float* x = op.x == nullptr ? nullptr : op.x + row * width;
        float* z = op.normal + row * width;
        const float scale = op.keep == nullptr ? 1.0f : op.keep->scale;
        in_pieces(op.keep, row, width, [&](std::int64_t i0, std::int64_t i1, const std::uint8_t* kept) {
            for (std::int64_t i = i0; i < i1; ++i) z[i] = op.u_bias == nullptr ? u[i] : u[i] + op.u_bias[i];
            if (kept != nullptr) {
                for (std::int64_t i = i0; i < i1; ++i) z[i] = kept[i - i0] != 0 ? scale * z[i] : 0.0f;
            }
            if (x != nullptr) {
                for (std::int64_t i = i0; i < i1; ++i) z[i] += op.residual * x[i];
            }
        });
        const float mean = mean_of(z, width);
        const auto freedom = static_cast<float>(width - 1);
        const float std = std::sqrt(squares_of(z, width, mean) / freedom);
        const float inverse = 1.0f / (std + kEps);
        op.stats[2 * row] = inverse;
        op.stats[2 * row + 1] = std > 0.0f ? 1.0f / (freedom * std) : 0.0f;
        float* y = op.y + row * width;
        for (std::int64_t i = 0; i < width; ++i) {
            z[i] = (z[i] - mean) * inverse;
            y[i] = op.alpha[i] * z[i] + op.bias[i];
        }
    }
}

// With g = alpha dy and n the normalised row: dz = (g - mean g) / (std + eps) - n sum(g n) / ((width - 1) std).
void norm_backward(const NormBackward& op, std::int64_t begin, std::int64_t end, float* sums) {
    const std::int64_t width = op.width;
    const float* alpha = op.alpha;
    float* alpha_sum = sums;
    float* bias_sum = sums + width;
    float* u_sum = sums + 2 * width;
    for (std::int64_t row = begin; row < end; ++row) {
        const float* dy = op.dy + row * width;
        const float* n = op.normal + row * width;
        const Moments g = sum_row(
            width,
            [&](std::int64_t i, FloatVector& a, FloatVector& b) {
                const FloatVector gi = load(dy + i) * load(alpha + i);
                a = a + gi;
                b = b + gi * load(n + i);
            },
            [&](std::int64_t i, Moments& s) {
                s.first += dy[i] * alpha[i];
                s.second += dy[i] * alpha[i] * n[i];
            });
        const float inverse = op.stats[2 * row];
        const float mean = g.first / static_cast<float>(width);
        const float slope = g.second * op.stats[2 * row + 1];
        float* du = op.du + row * width;
        for (std::int64_t i = 0; i < width; ++i) {
            alpha_sum[i] += dy[i] * n[i];
            bias_sum[i] += dy[i];
        }
        for (std::int64_t i = 0; i < width; ++i) du[i] = (dy[i] * alpha[i] - mean) * inverse - n[i] * slope;
        if (op.dx != nullptr) {
            float* dx = op.dx + row * width;
            for (std::int64_t i = 0; i < width; ++i) dx[i] = op.residual * du[i];
        }
        in_pieces(op.keep, row, width, [&](std::int64_t i0, std::int64_t i1, const std::uint8_t* kept) {
            if (kept != nullptr) {
                const float scale = op.keep->scale;
                for (std::int64_t i = i0; i < i1; ++i) du[i] = kept[i - i0] != 0 ? scale * du[i] : 0.0f;
            }
            for (std::int64_t i = i0; i < i1; ++i) u_sum[i] += du[i];
        });
    }
}

void relu_dropout(float* h, const float* bias, std::int64_t width, const KeepPlan* keep, std::int64_t begin,
                  std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
        float* hidden = h + row * width;
        in_pieces(keep, row, width, [&](std::int64_t i0, std::int64_t i1, const std::uint8_t* kept) {
            for (std::int64_t i = i0; i < i1; ++i) {
                const float value = hidden[i] + bias[i];
                hidden[i] = value < 0.0f ? 0.0f : value;  // NaN stays
            }
            if (kept == nullptr) return;
            const float scale = keep->scale;
            for (std::int64_t i = i0; i < i1; ++i) hidden[i] = kept[i - i0] != 0 ? scale * hidden[i] : 0.0f;
        });
    }
}

// What was kept and positive is what is positive now: nothing is drawn again.
void relu_dropout_backward(float* dh, const float* h, std::int64_t width, float scale, std::int64_t begin,
                           std::int64_t end, float* sums) {
    for (std::int64_t row = begin; row < end; ++row) {
        float* d = dh + row * width;
        const float* hidden = h + row * width;
        for (std::int64_t i = 0; i < width; ++i) {
            d[i] = hidden[i] > 0.0f ? scale * d[i] : 0.0f;
            sums[i] += d[i];
        }
    }
}

void dropout_add(float* out, const float* bias, const float* residual, std::int64_t width,
                 const KeepPlan* keep, std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
        float* y = out + row * width;
        const float* a = residual + row * width;
        in_pieces(keep, row, width, [&](std::int64_t i0, std::int64_t i1, const std::uint8_t* kept) {
            if (kept == nullptr) {
                for (std::int64_t i = i0; i < i1; ++i) y[i] = a[i] + (y[i] + bias[i]);
                return;
            }
            const float scale = keep->scale;
            for (std::int64_t i = i0; i < i1; ++i) {
                y[i] = a[i] + (kept[i - i0] != 0 ? scale * (y[i] + bias[i]) : 0.0f);
            }
        });
    }
}

void dropout_backward(const float* dy, float* out, std::int64_t width, const KeepPlan* keep,
                      std::int64_t begin, std::int64_t end, float* sums) {
    for (std::int64_t row = begin; row < end; ++row) {
        const float* d = dy + row * width;
        float* target = out + row * width;
        in_pieces(keep, row, width, [&](std::int64_t i0, std::int64_t i1, const std::uint8_t* kept) {
            const float scale = keep == nullptr ? 1.0f : keep->scale;
            for (std::int64_t i = i0; i < i1; ++i) {
                target[i] = kept == nullptr || kept[i - i0] != 0 ? scale * d[i] : 0.0f;
            }
            for (std::int64_t i = i0; i < i1; ++i) sums[i] += target[i];
        });
    }
}

}  // namespace lwm::LWM_ISA
