// What a file that is compiled once per instruction set needs to know about its own compilation.
//
// CMake compiles every *_isa.cpp with -DLWM_ISA=<name> -DLWM_VECTOR_BYTES=<bytes> and that instruction
// set's flags. Such files keep all helpers in unnamed namespaces and use no std:: templates: an inline
// function emitted with AVX-512 code could otherwise be the copy that the linker keeps for everybody.
#pragma once

#ifndef LWM_ISA
#error "compile this file through CMakeLists.txt, which sets LWM_ISA and LWM_VECTOR_BYTES"
#endif

#include <cstdint>
#include <cstring>

namespace {

#if defined(__GNUC__)

// The compiler's own vectors: one text for SSE2, NEON, AVX2 and AVX-512.
typedef float FloatVector __attribute__((vector_size(LWM_VECTOR_BYTES)));
constexpr int kVectorWidth = LWM_VECTOR_BYTES / 4;

#else

constexpr int kVectorWidth = LWM_VECTOR_BYTES / 4;

struct FloatVector {
    float lane[kVectorWidth];

    FloatVector& operator+=(const FloatVector& other) {
        for (int i = 0; i < kVectorWidth; ++i) lane[i] += other.lane[i];
        return *this;
    }
    friend FloatVector operator*(FloatVector vector, float factor) {
        for (int i = 0; i < kVectorWidth; ++i) vector.lane[i] *= factor;
        return vector;
    }
};

#endif

[[maybe_unused]] inline FloatVector load(const float* source) {
    FloatVector vector;
    std::memcpy(&vector, source, sizeof(vector));
    return vector;
}

[[maybe_unused]] inline void store(float* target, const FloatVector& vector) {
    std::memcpy(target, &vector, sizeof(vector));
}

}  // namespace
