// Python bindings of the training step's operations: argument checks and pointers, nothing else.
#include "bindings.h"
#include "training.h"

namespace lwm {
namespace {

using Shape = std::vector<std::int64_t>;

const float* input(const char* argument, const py::object& object, const Shape& shape) {
    return checked_data<float>(argument, object, shape, Access::read);
}

float* output(const char* argument, const py::object& object, const Shape& shape) {
    return checked_data<float>(argument, object, shape, Access::write);
}

const float* optional_input(const char* argument, const py::object& object, const Shape& shape) {
    return object.is_none() ? nullptr : input(argument, object, shape);
}

std::int64_t axis(const py::object& array, py::ssize_t which) {
    return py::reinterpret_borrow<py::array>(array).shape(which);
}

// The plan of a dropout argument, and the pointer that the operations take.
struct Keep {
    KeepPlan plan = {};
    bool active = false;

    Keep(const LayerDropout* dropout, std::int64_t rows, std::int64_t first_word, std::int64_t width) {
        if (dropout == nullptr) return;
        plan = dropout->plan(rows, first_word, width);
        active = true;
    }
    const KeepPlan* get() const { return active ? &plan : nullptr; }
};

LayerDropout py_layer_dropout(const py::object& sample_id, std::int64_t seq_len, std::uint64_t seed,
                              std::uint32_t epoch, std::int64_t layer, double probability,
                              std::int64_t words) {
    return {checked_copy<std::int64_t>("sample_id", sample_id, {kAnySize}), seq_len, seed, epoch, layer,
            probability, words};
}

void py_draw_keep(const LayerDropout& dropout, std::int64_t first_word, const py::object& out, int num_threads) {
    auto* target = checked_data<bool>("out", out, {kAnySize, kAnySize}, Access::write);
    const std::int64_t rows = axis(out, 0), width = axis(out, 1);
    const KeepPlan plan = dropout.plan(rows, first_word, width);
    static_assert(sizeof(bool) == 1, "a numpy bool is a byte");
    const py::gil_scoped_release unlocked;
    draw_keep(plan, rows, width, reinterpret_cast<std::uint8_t*>(target), num_threads);
}

void py_norm_forward(const py::object& x, float residual, const py::object& u, const py::object& u_bias,
                     const py::object& alpha, const py::object& bias, const py::object& y,
                     const py::object& stats, const LayerDropout* dropout, std::int64_t first_word,
                     int num_threads) {
    NormForward op = {};
    op.normal = output("u", u, {kAnySize, kAnySize});
    op.u = op.normal;
    const std::int64_t rows = axis(u, 0);
    op.width = axis(u, 1);
    if (op.width < 2) {
        throw py::value_error("u: expected rows of at least 2 values, got shape " +
                              describe_shape({rows, op.width}));
    }
    op.x = optional_input("x", x, {rows, op.width});
    op.residual = residual;
    op.u_bias = optional_input("u_bias", u_bias, {op.width});
    op.alpha = input("alpha", alpha, {op.width});
    op.bias = input("bias", bias, {op.width});
    op.y = output("y", y, {rows, op.width});
    op.stats = output("stats", stats, {rows, 2});
    check_apart("u", u, "y", y);
    const Keep keep(dropout, rows, first_word, op.width);
    op.keep = keep.get();
    const py::gil_scoped_release unlocked;
    norm_forward(op, rows, num_threads);
}

void py_norm_backward(const py::object& dy, const py::object& normal, const py::object& stats,
                      const py::object& alpha, float residual, const py::object& dx, const py::object& du,
                      const py::object& sums, const LayerDropout* dropout, std::int64_t first_word,
                      int num_threads) {
    NormBackward op = {};
    op.dy = input("dy", dy, {kAnySize, kAnySize});
    const std::int64_t rows = axis(dy, 0);
    op.width = axis(dy, 1);
    op.normal = input("normal", normal, {rows, op.width});
    op.stats = input("stats", stats, {rows, 2});
    op.alpha = input("alpha", alpha, {op.width});
    op.residual = residual;
    op.dx = dx.is_none() ? nullptr : output("dx", dx, {rows, op.width});
    op.du = output("du", du, {rows, op.width});
    float* totals = output("sums", sums, {3, op.width});
    check_apart("normal", normal, "du", du);
    const Keep keep(dropout, rows, first_word, op.width);
    op.keep = keep.get();
    const py::gil_scoped_release unlocked;
    norm_backward(op, rows, totals, num_threads);
}

void py_relu_dropout(const py::object& h, const py::object& bias, const LayerDropout* dropout,
                     std::int64_t first_word, int num_threads) {
    float* values = output("h", h, {kAnySize, kAnySize});
    const std::int64_t rows = axis(h, 0), width = axis(h, 1);
    const float* shift = input("bias", bias, {width});
    const Keep keep(dropout, rows, first_word, width);
    const py::gil_scoped_release unlocked;
    relu_dropout(values, shift, rows, width, keep.get(), num_threads);
}

void py_relu_dropout_backward(const py::object& dh, const py::object& h, float scale,
                              const py::object& bias_grad, int num_threads) {
    float* gradient = output("dh", dh, {kAnySize, kAnySize});
    const std::int64_t rows = axis(dh, 0), width = axis(dh, 1);
    const float* values = input("h", h, {rows, width});
    float* total = output("bias_grad", bias_grad, {width});
    const py::gil_scoped_release unlocked;
    relu_dropout_backward(gradient, values, rows, width, scale, total, num_threads);
}

void py_dropout_add(const py::object& out, const py::object& bias, const py::object& residual,
                    const LayerDropout* dropout, std::int64_t first_word, int num_threads) {
    float* values = output("out", out, {kAnySize, kAnySize});
    const std::int64_t rows = axis(out, 0), width = axis(out, 1);
    const float* shift = input("bias", bias, {width});
    const float* source = input("residual", residual, {rows, width});
    const Keep keep(dropout, rows, first_word, width);
    const py::gil_scoped_release unlocked;
    dropout_add(values, shift, source, rows, width, keep.get(), num_threads);
}

void py_dropout_backward(const py::object& dy, const py::object& out, const py::object& bias_grad,
                         const LayerDropout* dropout, std::int64_t first_word, int num_threads) {
    const float* gradient = input("dy", dy, {kAnySize, kAnySize});
    const std::int64_t rows = axis(dy, 0), width = axis(dy, 1);
    float* target = output("out", out, {rows, width});
    float* total = output("bias_grad", bias_grad, {width});
    const Keep keep(dropout, rows, first_word, width);
    const py::gil_scoped_release unlocked;
    dropout_backward(gradient, target, rows, width, keep.get(), total, num_threads);
}

// The sizes that qkv [batch, seq_len, 3, num_heads, head_dim] tells.
AttentionSizes attention_sizes(const py::object& qkv) {
    input("qkv", qkv, {kAnySize, kAnySize, 3, kAnySize, kAnySize});
    return {axis(qkv, 0), axis(qkv, 1), axis(qkv, 3), axis(qkv, 4)};
}

void py_attention_forward(const py::object& qkv, const py::object& bias, const py::object& out,
                          const py::object& stats, int num_threads) {
    const AttentionSizes s = attention_sizes(qkv);
    const float* source = input("qkv", qkv, shape_of(py::reinterpret_borrow<py::array>(qkv)));
    const float* shift = input("bias", bias, {3 * s.num_heads * s.head_dim});
    float* target = output("out", out, {s.batch, s.seq_len, s.num_heads, s.head_dim});
    float* kept = output("stats", stats, {s.batch, s.num_heads, 2, s.seq_len});
    const py::gil_scoped_release unlocked;
    attention_forward(s, source, shift, target, kept, num_threads);
}

void py_attention_backward(const py::object& qkv, const py::object& bias, const py::object& out,
                           const py::object& stats, const py::object& dout, const py::object& dqkv,
                           const py::object& bias_grad, int num_threads) {
    const AttentionSizes s = attention_sizes(qkv);
    const Shape values = {s.batch, s.seq_len, s.num_heads, s.head_dim};
    const Shape whole = shape_of(py::reinterpret_borrow<py::array>(qkv));
    const float* source = input("qkv", qkv, whole);
    const float* shift = input("bias", bias, {3 * s.num_heads * s.head_dim});
    const float* result = input("out", out, values);
    const float* kept = input("stats", stats, {s.batch, s.num_heads, 2, s.seq_len});
    const float* gradient = input("dout", dout, values);
    float* target = output("dqkv", dqkv, whole);
    float* total = output("bias_grad", bias_grad, {3 * s.num_heads * s.head_dim});
    check_apart("qkv", qkv, "dqkv", dqkv);
    const py::gil_scoped_release unlocked;
    attention_backward(s, source, shift, result, kept, gradient, target, total, num_threads);
}

}  // namespace

void bind_training(py::module_& module) {
    using py::arg;
    py::class_<LayerDropout>(module, "LayerDropout", "One layer's dropout; immutable.")
        .def(py::init(&py_layer_dropout), arg("sample_id"), arg("seq_len"), arg("seed"), arg("epoch"),
             arg("layer"), arg("probability"), arg("words"));
    module.def("draw_keep", &py_draw_keep, arg("dropout"), arg("first_word"), arg("out"),
               arg("num_threads") = 0, "Which entries a dropout keeps, in `out`.");
    module.def("norm_forward", &py_norm_forward, arg("x"), arg("residual"), arg("u"), arg("u_bias"),
               arg("alpha"), arg("bias"), arg("y"), arg("stats"), arg("dropout") = py::none(),
               arg("first_word") = 0, arg("num_threads") = 0, "Residual, dropout and the exact Norm.");
    module.def("norm_backward", &py_norm_backward, arg("dy"), arg("normal"), arg("stats"), arg("alpha"),
               arg("residual"), arg("dx"), arg("du"), arg("sums"), arg("dropout") = py::none(),
               arg("first_word") = 0, arg("num_threads") = 0, "Gradients of norm_forward.");
    module.def("relu_dropout", &py_relu_dropout, arg("h"), arg("bias"), arg("dropout") = py::none(),
               arg("first_word") = 0, arg("num_threads") = 0, "Bias, ReLU and dropout in place.");
    module.def("relu_dropout_backward", &py_relu_dropout_backward, arg("dh"), arg("h"), arg("scale"),
               arg("bias_grad"), arg("num_threads") = 0, "Gradient of relu_dropout in place.");
    module.def("dropout_add", &py_dropout_add, arg("out"), arg("bias"), arg("residual"),
               arg("dropout") = py::none(), arg("first_word") = 0, arg("num_threads") = 0,
               "Bias, dropout and residual in place.");
    module.def("dropout_backward", &py_dropout_backward, arg("dy"), arg("out"), arg("bias_grad"),
               arg("dropout") = py::none(), arg("first_word") = 0, arg("num_threads") = 0,
               "Gradient of dropout_add.");
    module.def("attention_forward", &py_attention_forward, arg("qkv"), arg("bias"), arg("out"), arg("stats"),
               arg("num_threads") = 0, "Attention over packed projections.");
    module.def("attention_backward", &py_attention_backward, arg("qkv"), arg("bias"), arg("out"),
               arg("stats"), arg("dout"), arg("dqkv"), arg("bias_grad"), arg("num_threads") = 0,
               "Gradients of attention_forward.");
}

}  // namespace lwm
