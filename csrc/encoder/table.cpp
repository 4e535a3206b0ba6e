#include "table.h"

#include <cstdlib>
#include <stdexcept>

#include "../dispatch.h"
#include "amx_encoder.h"
#include "float_encoder.h"

namespace lwm {

namespace portable {
extern const FloatKernels kFloatEncoder;
}
#ifdef LWM_BUILD_X86_ISAS
namespace avx2 {
extern const FloatKernels kFloatEncoder;
}
namespace avx512 {
extern const FloatKernels kFloatEncoder;
}
#endif

namespace {

template <Isa isa>
bool runs() {
    return cpu_runs(isa);
}

template <const FloatKernels& kernels>
std::unique_ptr<Encoder> make_float(const EncoderView& view) {
    return make_float_encoder(kernels, view);
}

#ifdef LWM_BUILD_AMX
template <int planes>
std::unique_ptr<Encoder> make_amx(const EncoderView& view) {
    return make_amx_encoder(view, planes);
}
#endif

#ifdef LWM_BUILD_AMX_EMULATED
bool always() { return true; }

template <int planes>
std::unique_ptr<Encoder> make_emulated_amx(const EncoderView& view) {
    return make_emulated_amx_encoder(view, planes);
}
#endif

// Slowest first within a precision.
constexpr EncoderRow kRows[] = {
    {"float32", "portable", true, runs<Isa::portable>, make_float<portable::kFloatEncoder>},
#ifdef LWM_BUILD_X86_ISAS
    {"float32", "avx2", true, runs<Isa::avx2>, make_float<avx2::kFloatEncoder>},
    {"float32", "avx512", true, runs<Isa::avx512>, make_float<avx512::kFloatEncoder>},
#endif
#ifdef LWM_BUILD_AMX
    {"bfloat16", "amx", true, amx_runs, make_amx<1>},
    {"bf16x3", "amx", true, amx_runs, make_amx<2>},
#endif
#ifdef LWM_BUILD_AMX_EMULATED
    {"bfloat16", "amx-emulated", false, always, make_emulated_amx<1>},
    {"bf16x3", "amx-emulated", false, always, make_emulated_amx<2>},
#endif
};

void check_precision(const std::string& precision) {
    if (precision == "float32" || precision == "bf16x3" || precision == "bfloat16") return;
    throw std::invalid_argument("precision: got \"" + precision + "\", expected float32, bf16x3 or bfloat16");
}

std::string join(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? "none" : text;
}

}  // namespace

std::vector<std::string> encoder_isas(const std::string& precision) {
    check_precision(precision);
    std::vector<std::string> names;
    for (const EncoderRow& row : kRows) {
        if (row.listed && row.precision == precision && row.runs()) names.emplace_back(row.isa);
    }
    return names;
}

const EncoderRow& choose_encoder(const std::string& precision, const std::string& isa) {
    check_precision(precision);
    const char* variable = std::getenv("LWM_FAST_ISA");
    const bool by_argument = !isa.empty();
    const std::string wanted = by_argument ? isa : (variable == nullptr ? "" : variable);
    const bool tiles = !by_argument && wanted == kTileIsa && amx_runs();
    const EncoderRow* best = nullptr;
    for (const EncoderRow& row : kRows) {
        const bool instead = tiles && std::string(row.isa) == isa_name(Isa::avx512);  // has no tiles: float32
        const bool named = wanted.empty() ? row.listed : (wanted == row.isa || instead);
        if (named && row.precision == precision && row.runs()) best = &row;
    }
    if (best == nullptr) {
        const std::string place = wanted.empty() ? "" : (by_argument ? "isa=" : "LWM_FAST_ISA=") + wanted + ": ";
        throw std::invalid_argument(place + "cannot run precision " + precision +
                                    " here; this processor and build offer it on: " +
                                    join(encoder_isas(precision)));
    }
    return *best;
}

}  // namespace lwm
