// What the bindings share: packing arrays and per-sample values taken from numpy, and the parts of the module.
#pragma once

#include "buffers.h"
#include "tokenize.h"

namespace lwm {

// Adds the operations of the training data engine (module_data.cpp).
void bind_data(py::module_& module);

// Adds the encoder (module_encoder.cpp).
void bind_encoder(py::module_& module);

// Adds the operations of the training step (module_training.cpp).
void bind_training(py::module_& module);

using Complex = std::complex<float>;

inline float* parts(Complex* values) { return reinterpret_cast<float*>(values); }

// Private copies of the packing arrays, with the batch taken from cu_seqlens.
struct PackingCopy {
    std::vector<std::int64_t> offsets;
    std::vector<std::int32_t> shape, cu_seqlens;

    PackingCopy(const py::object& offsets_, const py::object& shape_, const py::object& cu_seqlens_) {
        cu_seqlens = checked_copy<std::int32_t>("cu_seqlens", cu_seqlens_, {kAnySize});
        if (cu_seqlens.empty()) throw py::value_error("cu_seqlens: expected batch + 1 entries, got none");
        offsets = checked_copy<std::int64_t>("offsets", offsets_, {batch() + 1});
        shape = checked_copy<std::int32_t>("shape", shape_, {batch(), 2});
    }

    std::int64_t batch() const { return static_cast<std::int64_t>(cu_seqlens.size()) - 1; }
    Packing view() const { return {batch(), offsets.data(), shape.data(), cu_seqlens.data()}; }
};

// One value (or row of `length`) per sample, or one for all.
inline PerSample per_sample(const char* argument, const py::object& object, std::int64_t batch, std::int64_t length) {
    if (!py::isinstance<py::array>(object)) checked_data<float>(argument, object, {batch}, Access::read);
    const auto array = py::reinterpret_borrow<py::array>(object);
    const bool row = length > 1;
    const bool one = row ? array.ndim() == 1 : array.size() == 1;
    std::vector<std::int64_t> shape;
    if (!one || !row) shape.push_back(one ? 1 : batch);
    if (row) shape.push_back(length);
    return {checked_data<float>(argument, object, shape, Access::read), one};
}

}  // namespace lwm
