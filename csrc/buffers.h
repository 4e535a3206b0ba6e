// Checked access to numpy arrays: nothing is converted or copied silently.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <cstdint>
#include <string>
#include <vector>

namespace lwm {

namespace py = pybind11;

enum class Access { read, write };

constexpr std::int64_t kAnySize = -1;

inline std::string describe_shape(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + (shape[i] == kAnySize ? std::string("any") : std::to_string(shape[i]));
    }
    return text + "]";
}

inline std::vector<std::int64_t> shape_of(const py::array& array) {
    return {array.shape(), array.shape() + array.ndim()};
}

template <typename T>
std::string describe_wanted(const char* argument, const std::vector<std::int64_t>& shape) {
    const std::string dtype = py::str(static_cast<py::object>(py::dtype::of<T>()));
    return std::string(argument) + ": expected a C-contiguous " + dtype + " array of shape " +
           describe_shape(shape);
}

// The array's data, or TypeError / ValueError naming the argument, what came and what is wanted.
// shape: the sizes wanted, kAnySize where any is right. Texts are made only when something is wrong.
template <typename T>
T* checked_data(const char* argument, const py::object& object, const std::vector<std::int64_t>& shape,
                Access access) {
    const auto wanted = [&] { return describe_wanted<T>(argument, shape); };
    if (!py::isinstance<py::array>(object)) {
        const std::string type = py::str(py::type::of(object).attr("__name__"));
        throw py::type_error(wanted() + ", got " + type);
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!py::array_t<T, 0>::check_(object)) {
        const std::string dtype = py::str(static_cast<py::object>(array.dtype()));
        throw py::type_error(wanted() + ", got dtype " + dtype + "; convert it with .astype()");
    }
    bool fits = static_cast<std::size_t>(array.ndim()) == shape.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
        fits = shape[i] == kAnySize || shape[i] == array.shape(static_cast<py::ssize_t>(i));
    }
    if (!fits) throw py::value_error(wanted() + ", got shape " + describe_shape(shape_of(array)));
    constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array.flags() & py::array::c_style) == 0 || (array.flags() & kAligned) == 0) {
        throw py::value_error(wanted() + ", got a strided or unaligned one; pass numpy.ascontiguousarray(" +
                              argument + ")");
    }
    if (access == Access::write && !array.writeable()) {
        throw py::value_error(wanted() + ", got a read-only one; outputs must be writable");
    }
    return const_cast<T*>(static_cast<const T*>(array.data()));
}

// A private copy of an index array: other Python threads may write to the original while the work runs.
template <typename T>
std::vector<T> checked_copy(const char* argument, const py::object& object,
                            const std::vector<std::int64_t>& shape) {
    const T* data = checked_data<T>(argument, object, shape, Access::read);
    return {data, data + py::reinterpret_borrow<py::array>(object).size()};
}

inline std::int64_t size_of(const py::object& array) {
    return py::reinterpret_borrow<py::array>(array).size();
}

// Throws ValueError when an output shares memory with an input.
inline void check_apart(const char* input, const py::object& source, const char* output,
                        const py::object& target) {
    const auto in = py::reinterpret_borrow<py::array>(source);
    const auto out = py::reinterpret_borrow<py::array>(target);
    const auto in_begin = reinterpret_cast<std::uintptr_t>(in.data());
    const auto out_begin = reinterpret_cast<std::uintptr_t>(out.data());
    const auto in_bytes = static_cast<std::uintptr_t>(in.nbytes());
    const auto out_bytes = static_cast<std::uintptr_t>(out.nbytes());
    if (in_begin < out_begin + out_bytes && out_begin < in_begin + in_bytes) {
        throw py::value_error(std::string(output) + " shares memory with " + input + ": pass another buffer");
    }
}

}  // namespace lwm
