// Runs every native operation on random and hostile sizes without Python, to be built with sanitizers:
// buffers are exactly as long as they must be, so any access outside them is reported.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check_csi.h"
#include "dispatch.h"
#include "fuzz.h"
#include "noise.h"
#include "parallel.h"
#include "rays_to_csi.h"
#include "tokenize.h"

namespace {

using namespace fuzz;

void fuzz_tokens(Random& random, TokenVersion version) {
    const Batch batch = random_batch(random, version);
    const Packing packing = batch.view();
    const std::int64_t elements = batch.offsets.back(), tokens = batch.cu_seqlens.back();
    const std::int64_t patch_len = lwm::patch_length(version);
    const int threads = static_cast<int>(random.integer(1, 5));
    const std::vector<float> csi = random.reals(2 * elements, -1.0f, 1.0f);
    const std::vector<float> cls(static_cast<std::size_t>(patch_len), 0.2f);
    const float scale = 4.0f;  // a power of two: the way back is exact
    std::vector<float> out = poisoned(tokens * patch_len), back = poisoned(2 * elements);
    lwm::tokenize(csi.data(), elements, packing, {&scale, true}, {cls.data(), true}, out.data(), tokens, version,
                  threads);
    for (const float value : out) require(!std::isnan(value), "tokenize left a value unwritten");
    lwm::detokenize(out.data(), tokens, packing, {&scale, true}, back.data(), elements, version, threads);
    require(back == csi, "detokenize is not the inverse of tokenize");

    const std::vector<float> snr = random.reals(packing.batch, -10.0f, 30.0f);
    std::vector<std::int64_t> ids(snr.size());
    for (auto& id : ids) id = random.integer(std::numeric_limits<std::int64_t>::min(), 1000);
    std::vector<float> other = out;
    lwm::add_noise(out.data(), tokens, patch_len, batch.cu_seqlens.data(), packing.batch, snr.data(), ids.data(),
                   7, 3, threads);
    lwm::add_noise(other.data(), tokens, patch_len, batch.cu_seqlens.data(), packing.batch, snr.data(),
                   ids.data(), 7, 3, 1);
    require(out == other, "noise depends on the number of threads");

    std::vector<std::uint8_t> flags(snr.size(), 255);
    std::vector<float> means = poisoned(packing.batch);
    lwm::check_csi(csi.data(), elements, batch.offsets.data(), packing.batch, flags.data(), means.data(), threads);
    for (const std::uint8_t flag : flags) require(flag == 0, "check_csi flags a good sample");
}

// One entry of a valid batch is changed at random: refused, or harmless to the exact buffers.
void fuzz_hostile_packing(Random& random, TokenVersion version) {
    Batch batch = random_batch(random, version);
    const std::int64_t elements = batch.offsets.back(), tokens = batch.cu_seqlens.back();
    const std::int64_t patch_len = lwm::patch_length(version);
    const auto pick = [&random](std::size_t size) {
        return static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(size) - 1));
    };
    const std::int64_t choices[] = {-1, 0, 1, random.integer(-100, 100000), 2147483647, -2147483647};
    const std::int64_t value = choices[pick(6)];
    switch (random.integer(0, 2)) {
        case 0:
            batch.offsets[pick(batch.offsets.size())] = value * (std::int64_t{1} << random.integer(0, 31));
            break;
        case 1:
            batch.cu_seqlens[pick(batch.cu_seqlens.size())] = static_cast<std::int32_t>(value);
            break;
        default:
            if (!batch.shape.empty()) batch.shape[pick(batch.shape.size())] = static_cast<std::int32_t>(value);
    }
    const std::vector<float> csi(static_cast<std::size_t>(2 * elements), 1.0f);
    const std::vector<float> cls(static_cast<std::size_t>(patch_len), 0.2f);
    const std::vector<float> snr(batch.offsets.size(), 10.0f);
    const std::vector<std::int64_t> ids(batch.offsets.size(), 1);
    std::vector<std::uint8_t> flags(batch.offsets.size());
    std::vector<float> out(static_cast<std::size_t>(tokens * patch_len));
    const float scale = 1.0f;
    const std::function<void()> calls[] = {
        [&] {
            lwm::tokenize(csi.data(), elements, batch.view(), {&scale, true}, {cls.data(), true}, out.data(),
                          tokens, version, 2);
        },
        [&] {
            lwm::add_noise(out.data(), tokens, patch_len, batch.cu_seqlens.data(), batch.view().batch, snr.data(),
                           ids.data(), 1, 0, 2);
        },
        [&] {
            lwm::check_csi(csi.data(), elements, batch.offsets.data(), batch.view().batch, flags.data(), nullptr,
                           2);
        },
    };
    for (const auto& call : calls) {
        try {
            call();
        } catch (const std::invalid_argument&) {
        }
    }
}

void fuzz_rays(Random& random) {
    const std::int64_t users = random.integer(0, 6);
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t i = 0; i < users; ++i) offsets.push_back(offsets.back() + random.integer(0, 25));
    const std::int64_t count = offsets.back();
    lwm::RayGrid grid = {};
    grid.num_h = random.integer(1, 40);
    grid.num_v = random.integer(1, 3);
    grid.num_subcarriers = random.integer(1, 150);
    grid.axis_h[1] = 1.0;
    grid.axis_v[2] = 1.0;
    grid.bandwidth = 1e6;
    grid.spacing = 0.5;
    const std::vector<float> power = random.reals(count, -150.0f, -50.0f), phase = random.reals(count, -400.0f, 400.0f),
                             delay = random.reals(count, 0.0f, 3e-4f), angle = random.reals(count, -200.0f, 200.0f);
    const lwm::Rays rays = {power.data(), phase.data(), delay.data(), angle.data(), phase.data(), count};
    std::vector<float> out = poisoned(2 * users * grid.num_h * grid.num_v * grid.num_subcarriers);
    const std::int64_t max_paths = random.integer(1, 30);
    lwm::rays_to_csi(grid, rays, offsets.data(), users, max_paths, out.data(),
                     static_cast<int>(random.integer(1, 4)));
    for (const float value : out) require(std::isfinite(value), "rays_to_csi left a value unwritten");
    offsets.back() = count + 1;
    require_refusal([&] { lwm::rays_to_csi(grid, rays, offsets.data(), users, max_paths, out.data(), 1); },
                    "rays beyond the arrays are accepted");
}

void fuzz_parallel(Random& random) {
    const std::int64_t count = random.integer(0, 1000), grain = random.integer(1, 50);
    std::vector<std::thread> callers;
    std::atomic<std::int64_t> sum{0};
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&] {
            lwm::parallel_for(count, grain, 3, [&sum](std::int64_t begin, std::int64_t end) { sum += end - begin; });
        });
    }
    for (std::thread& caller : callers) caller.join();
    require(sum == 4 * count, "parallel_for lost or repeated items");
    require_refusal(
        [] { lwm::parallel_for(9, 1, 3, [](std::int64_t, std::int64_t) { throw std::invalid_argument("body"); }); },
        "parallel_for swallows an exception");
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
    Random random(1);
    for (int round = 0; round < rounds; ++round) {
        for (const TokenVersion version : {TokenVersion::v1_0, TokenVersion::v1_1}) {
            fuzz_tokens(random, version);
            fuzz_hostile_packing(random, version);
            masks(random, version);
            hostile_masks(random, version);
            collation(random, version);
            channel_encoding(random, version);
        }
        fuzz_rays(random);
        fuzz_parallel(random);
        encoding(random);
        tiles(random);
    }
    std::printf("fuzz: %d rounds passed with %s code\n", rounds, lwm::isa_name(lwm::chosen_isa()));
    return 0;
}
