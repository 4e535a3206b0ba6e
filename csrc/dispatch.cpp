#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "encoder/amx_encoder.h"

namespace lwm {

namespace portable {
const Kernels& table();
}
#ifdef LWM_BUILD_X86_ISAS
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}
#endif

namespace {

struct Entry {
    Isa isa;
    const Kernels& (*table)();
};

constexpr Entry kEntries[] = {
    {Isa::portable, portable::table},
#ifdef LWM_BUILD_X86_ISAS
    {Isa::avx2, avx2::table},
    {Isa::avx512, avx512::table},
#endif
};

const Entry& choose() {
    const char* variable = std::getenv("LWM_FAST_ISA");
    const bool forced = variable != nullptr && *variable != '\0';
    // Tiles are for the encoder alone; its other loops are AVX-512's then.
    const bool tiles = forced && std::string(variable) == kTileIsa && amx_runs();
    const std::string wanted = tiles ? isa_name(Isa::avx512) : (forced ? variable : "");
    const Entry* best = nullptr;
    std::string names;
    for (const Entry& entry : kEntries) {
        if (!cpu_runs(entry.isa)) continue;
        names += std::string(names.empty() ? "" : ", ") + isa_name(entry.isa);
        if (!forced || wanted == isa_name(entry.isa)) best = &entry;
    }
    if (best == nullptr) {
        if (amx_runs()) names += std::string(", ") + kTileIsa;
        throw std::invalid_argument("LWM_FAST_ISA=" + wanted +
                                    " cannot run here: this processor and build offer " + names +
                                    "; name one of them or unset LWM_FAST_ISA");
    }
    return *best;
}

const Entry& chosen() {
    static const Entry& entry = choose();
    return entry;
}

}  // namespace

std::vector<Isa> available_isas() {
    std::vector<Isa> isas;
    for (const Entry& entry : kEntries) {
        if (cpu_runs(entry.isa)) isas.push_back(entry.isa);
    }
    return isas;
}

Isa chosen_isa() { return chosen().isa; }

const Kernels& kernels() { return chosen().table(); }

}  // namespace lwm
