#include "packing.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace lwm {
namespace {

std::string str(std::int64_t value) { return std::to_string(value); }

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

template <typename Int>
void check_bounds_of(const char* argument, const Int* bounds, std::int64_t count, std::int64_t limit,
                     const char* limit_name) {
    const std::string name(argument);
    if (bounds[0] < 0) refuse(name + "[0] is " + str(bounds[0]) + ": it must not be negative");
    for (std::int64_t i = 0; i < count; ++i) {
        if (bounds[i + 1] < bounds[i]) {
            refuse(name + "[" + str(i + 1) + "] is " + str(bounds[i + 1]) + ", less than " + name + "[" +
                   str(i) + "] = " + str(bounds[i]) + ": it must never decrease");
        }
    }
    if (bounds[count] > limit) {
        refuse(name + " ends at " + str(bounds[count]) + " but " + limit_name + " holds " + str(limit) +
               ": pass the whole buffer or correct " + name);
    }
}

}  // namespace

TokenVersion token_version(int version) {
    if (version == 10) return TokenVersion::v1_0;
    if (version == 11) return TokenVersion::v1_1;
    refuse("version: got " + str(version) + ", expected 10 (LWM v1.0) or 11 (LWM v1.1)");
}

std::int64_t num_patches(TokenVersion version, std::int64_t num_antennas, std::int64_t num_subcarriers) {
    if (version == TokenVersion::v1_0) return 2 * num_antennas * num_subcarriers / 16;
    return ((num_antennas + 3) / 4) * ((num_subcarriers + 3) / 4);
}

void check_bounds(const char* argument, const std::int64_t* bounds, std::int64_t count, std::int64_t limit,
                  const char* limit_name) {
    check_bounds_of(argument, bounds, count, limit, limit_name);
}

void check_bounds(const char* argument, const std::int32_t* bounds, std::int64_t count, std::int64_t limit,
                  const char* limit_name) {
    check_bounds_of(argument, bounds, count, limit, limit_name);
}

void check_packing(const Packing& packing, TokenVersion version, std::int64_t num_elements,
                   std::int64_t num_tokens) {
    check_bounds("offsets", packing.offsets, packing.batch, num_elements, "csi");
    check_bounds("cu_seqlens", packing.cu_seqlens, packing.batch, num_tokens, "tokens");
    for (std::int64_t i = 0; i < packing.batch; ++i) {
        const std::int64_t antennas = packing.antennas(i), subcarriers = packing.subcarriers(i);
        const auto size = [&] { return str(antennas) + " x " + str(subcarriers); };
        if (antennas < 1 || subcarriers < 1) {
            refuse("shape[" + str(i) + "] is " + size() + ": both must be at least 1");
        }
        const std::int64_t elements = packing.offsets[i + 1] - packing.offsets[i];
        if (elements != antennas * subcarriers) {
            refuse("offsets give sample " + str(i) + " " + str(elements) + " values but shape[" + str(i) +
                   "] is " + size() + " = " + str(antennas * subcarriers));
        }
        if (version == TokenVersion::v1_0 && elements % 16 != 0) {
            refuse("shape[" + str(i) + "] is " + size() + " = " + str(elements) +
                   " values: LWM v1.0 needs a multiple of 16 (v1.1 takes any size)");
        }
        const std::int64_t tokens = packing.cu_seqlens[i + 1] - packing.cu_seqlens[i];
        const std::int64_t expected = num_patches(version, antennas, subcarriers) + 1;
        if (tokens != expected) {
            refuse("cu_seqlens give sample " + str(i) + " " + str(tokens) + " tokens but a " + size() +
                   " channel has " + str(expected) + " (CLS included)");
        }
    }
}

std::int64_t samples_per_range(std::int64_t batch, std::int64_t total_values) {
    constexpr std::int64_t kValuesPerRange = 32768;
    const std::int64_t per_sample = total_values / std::max<std::int64_t>(1, batch);
    return std::max<std::int64_t>(1, kValuesPerRange / std::max<std::int64_t>(1, per_sample));
}

}  // namespace lwm
