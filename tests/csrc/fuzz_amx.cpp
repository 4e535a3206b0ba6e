// The AMX encoder with its tiles emulated: roundings, single tile products, and whole groups of any sizes. An
// emulated tile also checks what the processor would fault on.
#define LWM_AMX_EMULATED

#include <algorithm>
#include <cmath>
#include <cstring>

#include "encoder/amx_tiles.h"
#include "encoder/engine.h"
#include "encoder/table.h"
#include "fuzz_model.h"

namespace fuzz {
namespace {

using lwm::Bf16;
using lwm::Pool;

void roundings(Random& random) {
    const float x = std::ldexp(random.real(-2.0f, 2.0f), static_cast<int>(random.integer(-100, 100)));
    const float nearest = lwm::from_bf16(lwm::to_bf16(x));
    const float step = std::ldexp(1.0f, std::ilogb(x) - 7);
    require(x == 0.0f || std::fabs(nearest - x) <= step / 2, "to_bf16 is not the nearest");
    float rest = x;
    for (int plane = 0; plane < 3; ++plane) rest -= lwm::from_bf16(lwm::to_bf16(rest));
    require(rest == 0.0f, "three planes are not the float");
    const float tie = lwm::from_bf16(0x3f80) + std::ldexp(1.0f, -8);  // half-way from 1 to the next bfloat16
    require(lwm::to_bf16(tie) == 0x3f80 && lwm::to_bf16(tie + std::ldexp(1.0f, -7)) == 0x3f82, "ties go to even");
    require(lwm::to_bf16(1e-40f) == 0 && lwm::to_bf16(-1e-40f) == 0x8000, "denormals become zero");
    require(lwm::to_bf16(3.4e38f) == 0x7f80, "beyond the range lies infinity");
    require(std::isnan(lwm::from_bf16(lwm::to_bf16(std::nanf("")))), "NaN stays NaN");
}

bool faults(int rows, int depth_bytes, int depth, int columns_bytes) {
    TileConfig config;
    config.shape(0, 16, 64);
    config.shape(1, rows, depth_bytes);
    config.shape(2, depth, columns_bytes);
    const TileScope scope(config);
    try {
        tile_dot<0, 1, 2>();
    } catch (const std::logic_error&) {
        return true;
    }
    return false;
}

void tile_products(Random& random) {
    const int rows = static_cast<int>(random.integer(1, 16)), depth = static_cast<int>(random.integer(1, 16)),
              columns = static_cast<int>(random.integer(1, 16));
    TileConfig config;
    config.shape(0, rows, 4 * columns);
    config.shape(1, rows, 4 * depth);
    config.shape(2, depth, 4 * columns);
    const TileScope scope(config);
    const auto draw = [&](int count) {
        std::vector<Bf16> values(static_cast<std::size_t>(count));
        for (Bf16& value : values) value = lwm::to_bf16(random.real(-2.0f, 2.0f));
        return values;
    };
    const std::vector<Bf16> left = draw(rows * 2 * depth), right = draw(depth * 2 * columns);
    std::vector<float> sums = random.reals(rows * columns, -2.0f, 2.0f);
    const std::vector<float> before = sums;
    tile_load<0>(sums.data(), 4 * columns);
    tile_load<1>(left.data(), 4 * depth);
    tile_load<2>(right.data(), 4 * columns);
    tile_dot<0, 1, 2>();
    tile_store<0>(sums.data(), 4 * columns);
    for (int m = 0; m < rows; ++m) {
        for (int n = 0; n < columns; ++n) {
            const auto place = static_cast<std::size_t>(m * columns + n);
            double sum = before[place];
            for (int k = 0; k < 2 * depth; ++k) {
                sum += static_cast<double>(lwm::from_bf16(left[static_cast<std::size_t>(m * 2 * depth + k)])) *
                       lwm::from_bf16(right[static_cast<std::size_t>(k / 2 * 2 * columns + 2 * n + k % 2)]);
            }
            require(std::fabs(sum - sums[place]) < 5e-5, "a tile product differs from the sum of its products");
        }
    }
    require(!faults(16, 64, 16, 64), "a full tile product is refused");
    require(faults(15, 64, 16, 64) && faults(16, 32, 16, 64) && faults(16, 64, 8, 64) && faults(16, 64, 16, 32),
            "a tile product of shapes that do not fit is accepted");
}

// Sizes that tiles take.
Model random_model(Random& random) {
    Model model;
    model.view.patch_len = random.integer(1, 40);
    model.view.embed_dim = 32 * random.integer(1, 3);
    model.view.ffn_dim = 32 * random.integer(1, 4);
    model.view.head_dim = random.integer(1, 16);
    model.view.num_positions = 120;
    model.fill(random, random.integer(1, 2));
    return model;
}

// Work space of exactly the size asked for, holding NaN.
std::vector<float> encoded(const lwm::Encoder& encoder, const std::vector<std::int32_t>& lengths, const float* tokens,
                           Pool pool, std::int64_t dim) {
    lwm::Group group = {lengths.data(), static_cast<std::int64_t>(lengths.size()), 0, 0, nullptr};
    std::int64_t out_rows = 0;
    for (const std::int32_t length : lengths) {
        group.rows += length;
        group.longest = std::max<std::int64_t>(group.longest, length);
        out_rows += lwm::pooled_rows(pool, length);
    }
    const std::size_t bytes = encoder.scratch_bytes(group);
    auto* scratch = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64}));
    std::memset(scratch, 0xff, bytes);
    std::vector<float> out = poisoned(out_rows * dim);
    encoder.encode(group, tokens, pool, out.data(), scratch);
    ::operator delete(scratch, std::align_val_t{64});
    return out;
}

}  // namespace

void tiles(Random& random) {
    roundings(random);
    tile_products(random);
    Model model = random_model(random);
    const auto pool = static_cast<Pool>(random.integer(0, 4));
    const char* precision = random.integer(0, 1) == 0 ? "bfloat16" : "bf16x3";
    const auto encoder = lwm::choose_encoder(precision, "amx-emulated").make(model.view);
    model.memory.clear();  // the encoder has its own copies
    std::vector<std::int32_t> lengths;
    std::int64_t rows = 0;
    for (std::int64_t i = random.integer(1, 3); i > 0; --i) {
        lengths.push_back(static_cast<std::int32_t>(random.integer(pool == Pool::mean ? 2 : 1, 70)));
        rows += lengths.back();
    }
    const std::vector<float> tokens = random.reals(rows * model.view.patch_len, -5.0f, 5.0f);
    const std::int64_t dim = model.view.embed_dim;
    const std::vector<float> all = encoded(*encoder, lengths, tokens.data(), pool, dim);
    for (const float value : all) require(std::isfinite(value), "the AMX encoder left a value unwritten");
    const float *place = all.data(), *mine = tokens.data();
    for (const std::int32_t length : lengths) {
        const std::vector<float> one = encoded(*encoder, {length}, mine, pool, dim);
        require(one.empty() || std::memcmp(one.data(), place, one.size() * sizeof(float)) == 0,
                "a result of the AMX encoder depends on the sequences beside it");
        place += one.size();
        mine += length * model.view.patch_len;
    }
}

}  // namespace fuzz
