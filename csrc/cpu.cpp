#include "cpu.h"

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define LWM_X86_64 1
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace lwm {
namespace {

#ifdef LWM_X86_64

struct Registers {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
    Registers r;
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    r.a = static_cast<std::uint32_t>(values[0]);
    r.b = static_cast<std::uint32_t>(values[1]);
    r.c = static_cast<std::uint32_t>(values[2]);
    r.d = static_cast<std::uint32_t>(values[3]);
#else
    __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
#endif
    return r;
}

// Which register files the operating system saves (XCR0).
std::uint64_t saved_state() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

std::vector<std::string> detect() {
    std::vector<std::string> found;
    const auto bit = [](std::uint32_t value, int index) { return ((value >> index) & 1u) != 0; };
    const auto add = [&found](bool present, const char* name) {
        if (present) found.emplace_back(name);
    };
    const std::uint32_t last_leaf = cpuid(0, 0).a;
    if (last_leaf < 1) return found;
    const Registers basic = cpuid(1, 0);
    add(bit(basic.c, 20), "sse4_2");
    const bool has_xgetbv = bit(basic.c, 27);
    const std::uint64_t saved = has_xgetbv ? saved_state() : 0;
    const bool ymm = (saved & 0x6u) == 0x6u;
    const bool zmm = ymm && (saved & 0xe0u) == 0xe0u;
    const bool tiles = (saved & 0x60000u) == 0x60000u;
    add(ymm && bit(basic.c, 28), "avx");
    add(ymm && bit(basic.c, 12), "fma");
    add(ymm && bit(basic.c, 29), "f16c");
    if (last_leaf < 7) return found;
    const Registers extended = cpuid(7, 0);
    add(ymm && bit(extended.b, 5), "avx2");
    add(zmm && bit(extended.b, 16), "avx512f");
    add(zmm && bit(extended.b, 17), "avx512dq");
    add(zmm && bit(extended.b, 30), "avx512bw");
    add(zmm && bit(extended.b, 31), "avx512vl");
    add(zmm && bit(extended.c, 11), "avx512_vnni");
    add(zmm && extended.a >= 1 && bit(cpuid(7, 1).a, 5), "avx512_bf16");
    add(tiles && bit(extended.d, 24), "amx_tile");
    add(tiles && bit(extended.d, 22), "amx_bf16");
    add(tiles && bit(extended.d, 25), "amx_int8");
    return found;
}

#else

std::vector<std::string> detect() {
#if defined(__ARM_NEON) || defined(_M_ARM64)
    return {"neon"};
#else
    return {};
#endif
}

#endif

}  // namespace

const std::vector<std::string>& cpu_features() {
    static const std::vector<std::string> features = detect();
    return features;
}

bool cpu_has(const char* feature) {
    const auto& features = cpu_features();
    return std::find(features.begin(), features.end(), feature) != features.end();
}

bool cpu_runs(Isa isa) {
    const bool avx2 = cpu_has("avx2") && cpu_has("fma");
    switch (isa) {
        case Isa::portable:
            return true;
        case Isa::avx2:
            return avx2;
        case Isa::avx512:
            return avx2 && cpu_has("avx512f") && cpu_has("avx512bw") && cpu_has("avx512dq") &&
                   cpu_has("avx512vl");
    }
    return false;
}

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::portable:
            break;
    }
    return "portable";
}

}  // namespace lwm
