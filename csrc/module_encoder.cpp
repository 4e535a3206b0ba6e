// Python binding of the encoder: argument checks and pointers, nothing else.
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.h"
#include "encoder/engine.h"
#include "encoder/table.h"

namespace lwm {
namespace {

using Shape = std::vector<std::int64_t>;

// Reads weights by name; errors name the place.
class Reader {
public:
    Reader(const py::dict& values, std::string place) : values_(values), place_(std::move(place)) {}

    py::object get(const char* key) const {
        if (!values_.contains(key)) throw py::value_error(name(key) + " is missing");
        return values_[key];
    }
    const float* array(const char* key, const Shape& shape) const { return checked(name(key), get(key), shape); }
    const float* optional(const char* key, const Shape& shape) const {
        return get(key).is_none() ? nullptr : array(key, shape);
    }
    NormView norm(const char* key, std::int64_t size) const {
        const py::object pair = get(key);
        if (pair.is_none()) return {nullptr, nullptr};
        if (!py::isinstance<py::tuple>(pair) || py::len(pair) != 2) {
            throw py::value_error(name(key) + ": expected a tuple (alpha, bias)");
        }
        const auto both = py::reinterpret_borrow<py::tuple>(pair);
        return {checked(name(key) + "[0]", both[0], {size}), checked(name(key) + "[1]", both[1], {size})};
    }
    std::int64_t size(const char* key, std::size_t axis, std::size_t axes) const {
        const py::object object = get(key);
        if (!py::isinstance<py::array>(object)) array(key, Shape(axes, kAnySize));
        const auto shape = shape_of(py::reinterpret_borrow<py::array>(object));
        if (shape.size() != axes) array(key, Shape(axes, kAnySize));
        return shape[axis];
    }
    std::string name(const char* key) const { return place_ + "[\"" + key + "\"]"; }

private:
    static const float* checked(const std::string& name, const py::object& object, const Shape& shape) {
        return checked_data<float>(name.c_str(), object, shape, Access::read);
    }

    py::dict values_;
    std::string place_;
};

void check_size(const std::string& name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value < least || value > most) {
        throw py::value_error(name + ": got " + std::to_string(value) + ", expected " + std::to_string(least) + ".." +
                              std::to_string(most));
    }
}

LayerView read_layer(const Reader& layer, const EncoderView& view) {
    const std::int64_t dim = view.embed_dim, ffn = view.ffn_dim;
    LayerView result = {};
    const std::int64_t width = layer.size("qkv", 1, 3);
    if (width % view.head_dim != 0) {
        throw py::value_error(layer.name("qkv") + ": got " + std::to_string(width) +
                              " rows each for queries, keys and values, expected a multiple of head_dim, " +
                              std::to_string(view.head_dim));
    }
    result.num_live = width / view.head_dim;
    result.qkv = layer.array("qkv", {3, width, dim});
    result.qkv_bias = layer.array("qkv_bias", {3, width});
    result.out = layer.array("out", {dim, width});
    result.out_bias = layer.array("out_bias", {dim});
    result.mean = layer.optional("mean", {dim, dim});
    result.fc1 = layer.array("fc1", {ffn, dim});
    result.fc1_bias = layer.array("fc1_bias", {ffn});
    result.fc2 = layer.array("fc2", {dim, ffn});
    result.fc2_bias = layer.array("fc2_bias", {dim});
    result.norm1 = layer.norm("norm1", dim);
    result.norm2 = layer.norm("norm2", dim);
    if (result.norm1.alpha == nullptr) throw py::value_error(layer.name("norm1") + ": must not be None");
    return result;
}

EncoderView read_weights(const py::dict& weights) {
    const Reader reader(weights, "weights");
    EncoderView view = {};
    view.embed_dim = reader.size("proj", 0, 2);
    view.patch_len = reader.size("proj", 1, 2);
    view.num_positions = reader.size("position", 0, 2);
    const py::object grid = reader.get("grid");
    if (!grid.is_none()) {
        std::tie(view.max_rows, view.max_columns) = grid.cast<std::pair<std::int64_t, std::int64_t>>();
        check_size("grid[0]", view.max_rows, 1, 1 << 20);
        check_size("grid[1]", view.max_columns, 1, 1 << 20);
        view.num_positions = 1 + view.max_rows + view.max_columns;  // of CLS, rows and columns
    }
    view.head_dim = reader.get("head_dim").cast<std::int64_t>();
    view.residual = reader.get("residual").cast<float>();
    check_size("embed_dim", view.embed_dim, 2, 1024);
    check_size("head_dim", view.head_dim, 1, 64);
    check_size("position", view.num_positions, 1, 1 << 22);
    view.proj = reader.array("proj", {view.embed_dim, view.patch_len});
    view.position = reader.array("position", {view.num_positions, view.embed_dim});
    view.norm = reader.norm("norm", view.embed_dim);
    if (view.norm.alpha == nullptr) throw py::value_error(reader.name("norm") + ": must not be None");
    const py::object layers = reader.get("layers");
    if (!py::isinstance<py::list>(layers) || py::len(layers) == 0) {
        throw py::value_error(reader.name("layers") + ": expected a list of at least one dict");
    }
    std::size_t number = 0;
    for (const py::handle layer : layers) {
        const std::string place = reader.name("layers") + "[" + std::to_string(number++) + "]";
        if (!py::isinstance<py::dict>(layer)) throw py::value_error(place + ": expected a dict");
        const Reader one(py::reinterpret_borrow<py::dict>(layer), place);
        if (number == 1) {
            view.ffn_dim = one.size("fc1", 0, 2);
            check_size("ffn_dim", view.ffn_dim, 1, 1 << 16);
        }
        view.layers.push_back(read_layer(one, view));
    }
    return view;
}

Pool pool_named(const std::string& name) {
    constexpr std::pair<const char*, Pool> kPools[] = {{"cls", Pool::cls},
                                                       {"mean", Pool::mean},
                                                       {"mean_with_cls", Pool::mean_with_cls},
                                                       {"patches", Pool::patches},
                                                       {"tokens", Pool::tokens}};
    for (const auto& [known, pool] : kPools) {
        if (name == known) return pool;
    }
    throw py::value_error("pool: got \"" + name + "\", expected cls, mean, mean_with_cls, patches or tokens");
}

// An encoder with its weights packed. It never changes: any number of threads may call it.
class NativeEncoder {
public:
    NativeEncoder(const py::dict& weights, int version, std::string precision, const std::string& isa)
        : version_(token_version(version)), precision_(std::move(precision)) {
        const EncoderView view = read_weights(weights);
        if (view.patch_len != patch_length(version_)) {
            throw py::value_error("weights[\"proj\"]: takes patches of " + std::to_string(view.patch_len) +
                                  " values, but those of this version have " +
                                  std::to_string(patch_length(version_)));
        }
        const EncoderRow& row = choose_encoder(precision_, isa);
        isa_ = row.isa;
        encoder_ = row.make(view);
        patch_len = view.patch_len;
        embed_dim = view.embed_dim;
        max_rows_ = view.max_rows;
        max_columns_ = view.max_columns;
        max_len = max_rows_ == 0 ? view.num_positions : 1 + max_rows_ * max_columns_;
    }

    std::int64_t patch_len, embed_dim, max_len;

    const std::string& isa() const { return isa_; }
    const std::string& precision() const { return precision_; }

    void encode(const py::object& csi, const py::object& offsets, const py::object& shape,
                const py::object& cu_seqlens, const py::object& scale, const py::object& cls, const py::object& out,
                const std::string& pool, int num_threads) const {
        const PackingCopy packing(offsets, shape, cu_seqlens);
        const float* source = parts(checked_data<Complex>("csi", csi, {kAnySize}, Access::read));
        const PerSample factor = per_sample("scale", scale, packing.batch(), 1);
        const PerSample first = per_sample("cls", cls, packing.batch(), patch_len);
        const EncodeTask task = task_of(out, pool, num_threads);
        check_apart("csi", csi, "out", out);
        const std::int64_t num_elements = size_of(csi);
        const py::gil_scoped_release unlocked;
        encode_channels(*encoder_, task, source, num_elements, packing.view(), factor, first, version_);
    }

    void encode_tokens(const py::object& tokens, const py::object& cu_seqlens, const py::object& out,
                       const std::string& pool, int num_threads, const py::object& shape) const {
        const auto bounds = checked_copy<std::int32_t>("cu_seqlens", cu_seqlens, {kAnySize});
        if (bounds.empty()) throw py::value_error("cu_seqlens: expected batch + 1 entries, got none");
        const float* source = checked_data<float>("tokens", tokens, {kAnySize, patch_len}, Access::read);
        const auto batch = static_cast<std::int64_t>(bounds.size()) - 1;
        std::vector<std::int32_t> sizes;
        const std::int32_t* shapes = nullptr;
        if (!shape.is_none()) {
            sizes = checked_copy<std::int32_t>("shape", shape, {batch, 2});
            shapes = sizes.data();
        }
        const EncodeTask task = task_of(out, pool, num_threads);
        check_apart("tokens", tokens, "out", out);
        const std::int64_t num_tokens = size_of(tokens) / patch_len;
        const py::gil_scoped_release unlocked;
        lwm::encode_tokens(*encoder_, task, source, num_tokens, bounds.data(), batch, shapes);
    }

private:
    EncodeTask task_of(const py::object& out, const std::string& pool, int num_threads) const {
        EncodeTask task = {};
        task.pool = pool_named(pool);
        task.out = checked_data<float>("out", out, {kAnySize, embed_dim}, Access::write);
        task.out_rows = size_of(out) / embed_dim;
        task.max_len = max_len;
        task.patch_len = patch_len;
        task.embed_dim = embed_dim;
        task.num_threads = num_threads;
        task.max_rows = max_rows_;
        task.max_columns = max_columns_;
        return task;
    }

    TokenVersion version_;
    std::string precision_, isa_;
    std::int64_t max_rows_, max_columns_;
    std::unique_ptr<Encoder> encoder_;
};

}  // namespace

void bind_encoder(py::module_& module) {
    using py::arg;
    module.def("encoder_isas", &encoder_isas, arg("precision"),
               "Instruction sets that run the encoder in `precision` here, slowest first.");
    py::class_<NativeEncoder>(module, "NativeEncoder", "An encoder with its weights packed; immutable.")
        .def(py::init<const py::dict&, int, std::string, const std::string&>(), arg("weights"), arg("version"),
             arg("precision") = "float32", arg("isa") = "")
        .def_property_readonly("isa", &NativeEncoder::isa)
        .def_property_readonly("precision", &NativeEncoder::precision)
        .def_readonly("patch_len", &NativeEncoder::patch_len)
        .def_readonly("embed_dim", &NativeEncoder::embed_dim)
        .def_readonly("max_len", &NativeEncoder::max_len)
        .def("encode", &NativeEncoder::encode, arg("csi"), arg("offsets"), arg("shape"), arg("cu_seqlens"),
             arg("scale"), arg("cls"), arg("out"), arg("pool"), arg("num_threads") = 0,
             "Packed complex64 channels to pooled embeddings, in `out`.")
        .def("encode_tokens", &NativeEncoder::encode_tokens, arg("tokens"), arg("cu_seqlens"), arg("out"),
             arg("pool"), arg("num_threads") = 0, arg("shape") = py::none(),
             "Packed tokens to pooled embeddings, in `out`.");
}

}  // namespace lwm
