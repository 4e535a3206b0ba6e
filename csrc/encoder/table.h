// Which implementations of the encoder there are, and which one runs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "encoder.h"

namespace lwm {

struct EncoderRow {
    const char* precision;
    const char* isa;
    bool listed;  // false: only by name, for tests
    bool (*runs)();
    std::unique_ptr<Encoder> (*make)(const EncoderView& view);
};

// The instruction sets that run `precision` here, slowest first. Throws std::invalid_argument for an unknown precision.
std::vector<std::string> encoder_isas(const std::string& precision);

// The row for `isa`, or, where that is empty, the one named by LWM_FAST_ISA, else the fastest that runs here.
// Throws std::invalid_argument that says what there is.
const EncoderRow& choose_encoder(const std::string& precision, const std::string& isa);

}  // namespace lwm
