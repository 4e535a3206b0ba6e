#include "training.h"

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "parallel.h"
#include "philox.h"

namespace lwm {
namespace {

constexpr std::int64_t kRange = 64;  // rows that one thread takes together
constexpr int kLayerShift = 20;      // of the layer in the fourth counter word
constexpr std::int64_t kMaxLayers = 16;
constexpr std::uint32_t kStreamDropout = 4;

const TrainingKernels& hot() { return *kernels().training; }

std::int64_t num_ranges(std::int64_t rows) { return (rows + kRange - 1) / kRange; }

// total[i] = sum of parts[n][i], n rising.
void add_parts(const std::vector<float>& parts, std::int64_t width, float* total) {
    for (std::int64_t i = 0; i < width; ++i) total[i] = 0.0f;
    const auto count = static_cast<std::int64_t>(parts.size());
    for (std::int64_t begin = 0; begin < count; begin += width) {
        for (std::int64_t i = 0; i < width; ++i) total[i] += parts[static_cast<std::size_t>(begin + i)];
    }
}

// Runs body(begin, end, sums of this range [width]) over rows and adds up the ranges' sums.
template <typename Body>
void rows_with_sums(std::int64_t rows, std::int64_t width, float* total, int num_threads, const Body& body) {
    std::vector<float> parts(static_cast<std::size_t>(num_ranges(rows) * width), 0.0f);
    // Counted in ranges: one thread is handed all of them at once.
    parallel_for(num_ranges(rows), 1, num_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t range = begin; range < end; ++range) {
            const std::int64_t first = range * kRange;
            const std::int64_t last = rows - first < kRange ? rows : first + kRange;
            body(first, last, parts.data() + range * width);
        }
    });
    add_parts(parts, width, total);
}

[[noreturn]] void refuse(const std::string& name, std::int64_t value, const std::string& wanted) {
    throw std::invalid_argument(name + ": got " + std::to_string(value) + ", expected " + wanted);
}

void check_head_dim(std::int64_t head_dim) {
    if (!hot().attends(head_dim)) refuse("head_dim", head_dim, "5 or 16, the sizes with kernels");
}

// Runs body(sequence, work space) for each sequence.
template <typename Body>
void each_sequence(const AttentionSizes& sizes, int num_threads, const Body& body) {
    constexpr std::size_t kLineBytes = 64;
    const auto floats = static_cast<std::size_t>(hot().attention_scratch(sizes));
    parallel_for(sizes.batch, 1, num_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> room(floats + kLineBytes / sizeof(float));
        void* start = room.data();
        std::size_t bytes = room.size() * sizeof(float);
        std::align(kLineBytes, floats * sizeof(float), start, bytes);
        for (std::int64_t sequence = begin; sequence < end; ++sequence) body(sequence, static_cast<float*>(start));
    });
}

}  // namespace

LayerDropout::LayerDropout(std::vector<std::int64_t> sample_id, std::int64_t seq_len, std::uint64_t seed,
                           std::uint32_t epoch, std::int64_t layer, double probability, std::int64_t words)
    : sample_id_(std::move(sample_id)), seq_len_(seq_len), words_(words), plan_{} {
    if (seq_len < 1) refuse("seq_len", seq_len, "at least 1");
    if (layer < 0 || layer >= kMaxLayers) refuse("layer", layer, "0.." + std::to_string(kMaxLayers - 1));
    if (words < 4 || words % 4 != 0) refuse("words", words, "a positive multiple of 4");
    if (!(probability >= 0.0 && probability < 1.0)) {
        throw std::invalid_argument("probability: got " + std::to_string(probability) + ", expected 0 <= p < 1");
    }
    plan_.seq_len = seq_len;
    plan_.seed_low = static_cast<std::uint32_t>(seed);
    plan_.seed_high = static_cast<std::uint32_t>(seed >> 32);
    plan_.epoch = epoch;
    plan_.first_block = kStreamDropout << 24 | static_cast<std::uint32_t>(layer) << kLayerShift;
    plan_.blocks_per_token = static_cast<std::uint32_t>(words / 4);
    plan_.threshold = static_cast<std::uint32_t>(std::ceil(probability * 16777216.0));
    plan_.scale = static_cast<float>(1.0 / (1.0 - probability));
}

KeepPlan LayerDropout::plan(std::int64_t rows, std::int64_t first_word, std::int64_t width) const {
    const auto expected = static_cast<std::int64_t>(sample_id_.size()) * seq_len_;
    if (rows != expected) refuse("rows", rows, std::to_string(expected) + ", those that the dropout names");
    if (first_word < 0 || first_word % 4 != 0 || width % 4 != 0 || first_word + width > words_) {
        refuse("first_word", first_word, "a multiple of 4 that leaves " + std::to_string(width) +
                                             " (a multiple of 4) of " + std::to_string(words_) + " words");
    }
    KeepPlan plan = plan_;
    plan.sample_id = sample_id_.data();
    plan.first_block += static_cast<std::uint32_t>(first_word / 4);
    return plan;
}

void draw_keep(const KeepPlan& keep, std::int64_t rows, std::int64_t width, std::uint8_t* out, int num_threads) {
    parallel_for(rows, kRange, num_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) hot().draw_keep(keep, row, width, out + row * width);
    });
}

void norm_forward(const NormForward& op, std::int64_t rows, int num_threads) {
    parallel_for(rows, kRange, num_threads,
                 [&](std::int64_t begin, std::int64_t end) { hot().norm_forward(op, begin, end); });
}

void norm_backward(const NormBackward& op, std::int64_t rows, float* sums, int num_threads) {
    rows_with_sums(rows, 3 * op.width, sums, num_threads,
                   [&](std::int64_t begin, std::int64_t end, float* part) {
                       hot().norm_backward(op, begin, end, part);
                   });
}

void relu_dropout(float* h, const float* bias, std::int64_t rows, std::int64_t width, const KeepPlan* keep,
                  int num_threads) {
    parallel_for(rows, kRange, num_threads, [&](std::int64_t begin, std::int64_t end) {
        hot().relu_dropout(h, bias, width, keep, begin, end);
    });
}

void relu_dropout_backward(float* dh, const float* h, std::int64_t rows, std::int64_t width, float scale,
                           float* bias_grad, int num_threads) {
    rows_with_sums(rows, width, bias_grad, num_threads,
                   [&](std::int64_t begin, std::int64_t end, float* part) {
                       hot().relu_dropout_backward(dh, h, width, scale, begin, end, part);
                   });
}

void dropout_add(float* out, const float* bias, const float* residual, std::int64_t rows, std::int64_t width,
                 const KeepPlan* keep, int num_threads) {
    parallel_for(rows, kRange, num_threads, [&](std::int64_t begin, std::int64_t end) {
        hot().dropout_add(out, bias, residual, width, keep, begin, end);
    });
}

void dropout_backward(const float* dy, float* out, std::int64_t rows, std::int64_t width, const KeepPlan* keep,
                      float* bias_grad, int num_threads) {
    rows_with_sums(rows, width, bias_grad, num_threads,
                   [&](std::int64_t begin, std::int64_t end, float* part) {
                       hot().dropout_backward(dy, out, width, keep, begin, end, part);
                   });
}

void attention_forward(const AttentionSizes& sizes, const float* qkv, const float* bias, float* out,
                       float* stats, int num_threads) {
    check_head_dim(sizes.head_dim);
    each_sequence(sizes, num_threads, [&](std::int64_t sequence, float* scratch) {
        hot().attention_forward(sizes, qkv, bias, out, stats, sequence, scratch);
    });
}

void attention_backward(const AttentionSizes& sizes, const float* qkv, const float* bias, const float* out,
                        const float* stats, const float* dout, float* dqkv, float* bias_grad, int num_threads) {
    check_head_dim(sizes.head_dim);
    const std::int64_t width = 3 * sizes.num_heads * sizes.head_dim;
    std::vector<float> parts(static_cast<std::size_t>(sizes.batch * width));
    each_sequence(sizes, num_threads, [&](std::int64_t sequence, float* scratch) {
        hot().attention_backward(sizes, qkv, bias, out, stats, dout, dqkv, parts.data() + sequence * width,
                                 sequence, scratch);
    });
    add_parts(parts, width, bias_grad);
}

}  // namespace lwm
