// The float32 encoder over one instruction set's loops.
#pragma once

#include <memory>

#include "float_kernels.h"

namespace lwm {

// Packs the weights.
std::unique_ptr<Encoder> make_float_encoder(const FloatKernels& kernels, const EncoderView& view);

}  // namespace lwm
