#include "engine.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "../parallel.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace lwm {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::int64_t kFewestRows = 64;       // of a group, where there are too few sequences for all threads
constexpr std::int64_t kGroupsPerThread = 3;

std::string str(std::int64_t value) { return std::to_string(value); }

// Numbers below 1e-38 count as zero while this lives: they would take a hundred times as long.
class FlushDenormals {
public:
#if defined(__x86_64__) || defined(_M_X64)
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(before_); }
#elif defined(__aarch64__) && defined(__GNUC__)
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
        __asm__ volatile("msr fpcr, %0" : : "r"(before_ | (std::uint64_t{1} << 24)));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }
#else
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

private:
#if defined(__x86_64__) || defined(_M_X64)
    unsigned before_;
#elif defined(__aarch64__) && defined(__GNUC__)
    std::uint64_t before_ = 0;
#endif
};

// A thread's work space: it grows to the largest group that the thread has seen, and stays.
class Arena {
public:
    std::byte* get(std::size_t bytes) {
        if (bytes > size_) {
            memory_.reset();
            size_ = 0;
            memory_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kLine})));
            size_ = bytes;
        }
        return memory_.get();
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{kLine}); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::size_t size_ = 0;
};

// Sequences begin .. end, whose tokens and results begin at these rows.
struct Span {
    std::int64_t begin, end, first_row, first_out;
};

// Cuts the batch where the work of a group, rounded up, wastes least. Which sequences share a group shows in no
// result, so few sequences may be cut finer for more threads.
std::vector<Span> cut_groups(const std::int32_t* lengths, std::int64_t batch, const GroupSize& size, Pool pool,
                             int num_threads) {
    std::int64_t total = 0;
    for (std::int64_t i = 0; i < batch; ++i) total += lengths[i];
    const std::int64_t threads = num_threads == 0 ? default_num_threads() : num_threads;
    const std::int64_t share = total / (threads == 1 ? 1 : threads * kGroupsPerThread);
    const std::int64_t target = std::min(size.rows, std::max(share, kFewestRows));
    std::vector<Span> spans;
    Span span = {0, 0, 0, 0};
    while (span.begin < batch) {
        std::int64_t rows = 0, out = 0;
        Span next = span;
        double best = 0.0;
        for (std::int64_t i = span.begin; i < batch; ++i) {
            rows += lengths[i];
            out += pooled_rows(pool, lengths[i]);
            if (i > span.begin && rows > target) break;
            const std::int64_t paid = (rows + size.multiple - 1) / size.multiple * size.multiple;
            const double use = static_cast<double>(rows) / static_cast<double>(paid);
            if (2 * rows < target || use >= best || 2 * next.first_row < 2 * span.first_row + target) {
                best = use;
                next = {i + 1, 0, span.first_row + rows, span.first_out + out};
            }
        }
        span.end = next.begin;
        spans.push_back(span);
        span = next;
    }
    return spans;
}

void check_lengths(const std::vector<std::int32_t>& lengths, const EncodeTask& task) {
    std::int64_t rows = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::int64_t length = lengths[i], place = static_cast<std::int64_t>(i);
        if (task.max_rows == 0 && length > task.max_len) {
            throw std::invalid_argument("sequence " + str(place) + " has " + str(length) +
                                        " tokens, but the model has positions for " + str(task.max_len));
        }
        const std::int64_t least = task.pool == Pool::mean ? 2 : 1;
        if (length < least) {
            throw std::invalid_argument("sequence " + str(place) + " has " + str(length) +
                                        " tokens: this pool needs at least " + str(least) + ", CLS included");
        }
        rows += pooled_rows(task.pool, length);
    }
    if (rows != task.out_rows) {
        throw std::invalid_argument("out has " + str(task.out_rows) + " rows, but these sequences give " + str(rows));
    }
}

// Rows and columns of patches of every sequence, [batch, 2]; nothing where positions go by token number.
std::vector<std::int32_t> grids_of(const EncodeTask& task, const std::int32_t* shape,
                                   const std::vector<std::int32_t>& lengths) {
    if (task.max_rows == 0 || lengths.empty()) return {};
    if (shape == nullptr) throw std::invalid_argument("shape is missing: the model's positions are rows and columns");
    std::vector<std::int32_t> grids(2 * lengths.size());
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::int64_t antennas = shape[2 * i], subcarriers = shape[2 * i + 1];
        const std::int64_t rows = (antennas + 3) / 4, columns = (subcarriers + 3) / 4;
        const auto size = [&] {
            return "shape[" + str(static_cast<std::int64_t>(i)) + "] is " + str(antennas) + " x " + str(subcarriers);
        };
        if (antennas < 1 || subcarriers < 1) throw std::invalid_argument(size() + ": both must be at least 1");
        if (rows > task.max_rows || columns > task.max_columns) {
            throw std::invalid_argument(size() + ", " + str(rows) + " x " + str(columns) +
                                        " patches, but the model has positions for " + str(task.max_rows) + " x " +
                                        str(task.max_columns));
        }
        if (1 + rows * columns != lengths[i]) {
            throw std::invalid_argument(size() + ", " + str(1 + rows * columns) + " tokens, but cu_seqlens give " +
                                        str(lengths[i]));
        }
        grids[2 * i] = static_cast<std::int32_t>(rows);
        grids[2 * i + 1] = static_cast<std::int32_t>(columns);
    }
    return grids;
}

// Runs the groups on the threads. `tokens_of` gives a group's tokens, made in [rows, patch_len] floats of work space
// or found elsewhere.
using TokensOf = std::function<const float*(const Span&, float*)>;

void run_groups(const Encoder& encoder, const EncodeTask& task, const std::vector<std::int32_t>& lengths,
                const std::int32_t* shape, bool make_tokens, const TokensOf& tokens_of) {
    check_lengths(lengths, task);
    const std::vector<std::int32_t> grids = grids_of(task, shape, lengths);
    const auto batch = static_cast<std::int64_t>(lengths.size());
    const std::vector<Span> spans =
        cut_groups(lengths.data(), batch, encoder.group_size(), task.pool, task.num_threads);
    const auto encode_span = [&](const Span& span) {
        const std::int32_t* own_grids = grids.empty() ? nullptr : grids.data() + 2 * span.begin;
        Group group = {lengths.data() + span.begin, span.end - span.begin, 0, 0, own_grids};
        for (std::int64_t i = 0; i < group.count; ++i) {
            group.rows += group.lengths[i];
            group.longest = std::max<std::int64_t>(group.longest, group.lengths[i]);
        }
        const auto token_floats = static_cast<std::size_t>(make_tokens ? group.rows * task.patch_len : 0);
        const std::size_t used = (token_floats * sizeof(float) + kLine - 1) / kLine * kLine;
        static thread_local Arena arena;
        std::byte* memory = arena.get(used + encoder.scratch_bytes(group));
        const float* tokens = tokens_of(span, reinterpret_cast<float*>(memory));
        const FlushDenormals flushed;
        encoder.encode(group, tokens, task.pool, task.out + span.first_out * task.embed_dim, memory + used);
    };
    parallel_for(static_cast<std::int64_t>(spans.size()), 1, task.num_threads,
                 [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t i = begin; i < end; ++i) encode_span(spans[static_cast<std::size_t>(i)]);
                 });
}

std::vector<std::int32_t> lengths_of(const std::int32_t* cu_seqlens, std::int64_t batch, std::int64_t num_tokens) {
    check_bounds("cu_seqlens", cu_seqlens, batch, num_tokens, "tokens");
    if (cu_seqlens[0] != 0) {
        throw std::invalid_argument("cu_seqlens[0] is " + str(cu_seqlens[0]) + ": it must be 0");
    }
    std::vector<std::int32_t> lengths(static_cast<std::size_t>(batch));
    for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = cu_seqlens[i + 1] - cu_seqlens[i];
    return lengths;
}

}  // namespace

void encode_channels(const Encoder& encoder, const EncodeTask& task, const float* csi, std::int64_t num_elements,
                     const Packing& packing, const PerSample& scale, const PerSample& cls, TokenVersion version) {
    check_packing(packing, version, num_elements, packing.cu_seqlens[packing.batch]);
    const auto lengths = lengths_of(packing.cu_seqlens, packing.batch, packing.cu_seqlens[packing.batch]);
    run_groups(encoder, task, lengths, packing.shape, true, [&](const Span& span, float* rows) {
        float* next = rows;
        for (std::int64_t i = span.begin; i < span.end; ++i) {
            tokenize_sample(csi + 2 * packing.offsets[i], packing, i, scale, cls, next, version);
            next += lengths[static_cast<std::size_t>(i)] * task.patch_len;
        }
        return rows;
    });
}

void encode_tokens(const Encoder& encoder, const EncodeTask& task, const float* tokens, std::int64_t num_tokens,
                   const std::int32_t* cu_seqlens, std::int64_t batch, const std::int32_t* shape) {
    const auto lengths = lengths_of(cu_seqlens, batch, num_tokens);
    if (cu_seqlens[batch] != num_tokens) {
        throw std::invalid_argument("cu_seqlens ends at " + str(cu_seqlens[batch]) + " but tokens holds " +
                                    str(num_tokens) + ": pass the sequences' tokens and no others");
    }
    run_groups(encoder, task, lengths, shape, false, [&](const Span& span, float*) {
        return tokens + span.first_row * task.patch_len;
    });
}

}  // namespace lwm
