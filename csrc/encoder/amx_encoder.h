// The bfloat16 and bf16x3 encoders over AMX.
#pragma once

#include <memory>

#include "encoder.h"

namespace lwm {

// True when the processor has AMX and AVX-512 with bfloat16, and the operating system lets this process use tiles:
// asked once, at the first call.
bool amx_runs();

// Packs the weights. planes: 1 for bfloat16, 2 for bf16x3. Throws std::invalid_argument for sizes that tiles do not
// take.
#ifdef LWM_BUILD_AMX
std::unique_ptr<Encoder> make_amx_encoder(const EncoderView& view, int planes);
#endif

// The same with tiles and bfloat16 conversions emulated, bit for bit and slowly, on any machine: for tests.
#ifdef LWM_BUILD_AMX_EMULATED
std::unique_ptr<Encoder> make_emulated_amx_encoder(const EncoderView& view, int planes);
#endif

}  // namespace lwm
