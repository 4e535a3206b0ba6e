// What the drivers share: requirements, random numbers, poisoned buffers and random batches.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "packing.h"

namespace fuzz {

using lwm::Packing;
using lwm::TokenVersion;

inline void require(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::exit(1);
}

inline void require_refusal(const std::function<void()>& call, const char* what) {
    bool refused = false;
    try {
        call();
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    require(refused, what);
}

class Random {
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    std::int64_t integer(std::int64_t low, std::int64_t high) {
        return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
    }
    float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine_); }
    std::vector<float> reals(std::int64_t count, float low, float high) {
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) value = real(low, high);
        return values;
    }

private:
    std::mt19937_64 engine_;
};

inline std::vector<float> poisoned(std::int64_t count) {
    return std::vector<float>(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
}

struct Batch {
    std::vector<std::int64_t> offsets{0};
    std::vector<std::int32_t> shape, cu_seqlens{0};

    Packing view() const {
        const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
        return {count, offsets.data(), shape.data(), cu_seqlens.data()};
    }
};

inline Batch random_batch(Random& random, TokenVersion version) {
    Batch batch;
    const std::int64_t count = random.integer(0, 9);
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t antennas = random.integer(1, 37);
        std::int64_t subcarriers = random.integer(1, 70);
        if (version == TokenVersion::v1_0) subcarriers *= 16;
        batch.shape.push_back(static_cast<std::int32_t>(antennas));
        batch.shape.push_back(static_cast<std::int32_t>(subcarriers));
        batch.offsets.push_back(batch.offsets.back() + antennas * subcarriers);
        const std::int64_t tokens = lwm::num_patches(version, antennas, subcarriers) + 1;
        batch.cu_seqlens.push_back(batch.cu_seqlens.back() + static_cast<std::int32_t>(tokens));
    }
    return batch;
}

// fuzz_data.cpp
void masks(Random& random, TokenVersion version);
void hostile_masks(Random& random, TokenVersion version);
void collation(Random& random, TokenVersion version);

// fuzz_encoder.cpp
void encoding(Random& random);
void channel_encoding(Random& random, TokenVersion version);

// fuzz_amx.cpp
void tiles(Random& random);

}  // namespace fuzz
