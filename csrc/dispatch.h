// Which instruction set's hot loops run.
#pragma once

#include <vector>

#include "cpu.h"
#include "kernels.h"

namespace lwm {

// The instruction sets this build holds and this processor runs, slowest first.
std::vector<Isa> available_isas();

// The name under which LWM_FAST_ISA asks for AMX where there is any, and AVX-512 elsewhere.
constexpr const char* kTileIsa = "amx";

// Chosen once, at first use: the fastest available, or the one named by LWM_FAST_ISA.
// Throws std::invalid_argument when LWM_FAST_ISA names none of available_isas().
Isa chosen_isa();
const Kernels& kernels();

}  // namespace lwm
