// NumPy arrays at the border: checked once, with messages that name argument, rule and value; then plain pointers.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "chainrule/chainrule.h"

namespace py = pybind11;

const chainrule_api &api();  // module.cpp

template <class T> const char *dtype_name() {
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, uint8_t>) return "uint8";
  if constexpr (std::is_same_v<T, uint32_t>) return "uint32";
  if constexpr (std::is_same_v<T, int32_t>) return "int32";
  if constexpr (std::is_same_v<T, uint64_t>) return "uint64";
}

inline std::string describe(const py::array &a) {
  return std::string(py::str(a.dtype())) + " of shape " + std::string(py::str(a.attr("shape")));
}

[[noreturn]] inline void refuse(const char *name, const std::string &rule, const py::array &a) {
  throw py::value_error(std::string(name) + " must be " + rule + ", not " + describe(a));
}

template <class T> T *data_of(const py::array &a, const char *name, bool writable) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw py::type_error(std::string(name) + " must be " + dtype_name<T>() + ", not " + std::string(py::str(a.dtype())));
  if (writable && !a.writeable()) throw py::value_error(std::string(name) + " is written to, but is read-only");
  if (reinterpret_cast<uintptr_t>(a.data()) % alignof(T)) throw py::value_error(std::string(name) + " is not aligned to its elements");
  return static_cast<T *>(const_cast<void *>(a.data()));
}

template <class T> struct Vector {
  T *data;
  size_t size;
};

// size < 0: any length.
template <class T> Vector<T> vector(const py::array &a, const char *name, py::ssize_t size, bool writable = false) {
  T *data = data_of<T>(a, name, writable);
  if (a.ndim() != 1 || (size >= 0 && a.shape(0) != size))
    refuse(name, size >= 0 ? "1-d of length " + std::to_string(size) : std::string("1-d"), a);
  if (a.shape(0) > 1 && a.strides(0) != py::ssize_t(sizeof(T))) throw py::value_error(std::string(name) + " must be contiguous");
  return {data, size_t(a.shape(0))};
}

template <class T> struct Matrix {
  T *data;
  size_t rows, columns, ld;
};

// Rows contiguous, any distance between them; rows or columns < 0: any number.
template <class T> Matrix<T> matrix(const py::array &a, const char *name, py::ssize_t rows, py::ssize_t columns, bool writable = false) {
  T *data = data_of<T>(a, name, writable);
  if (a.ndim() != 2 || (rows >= 0 && a.shape(0) != rows) || (columns >= 0 && a.shape(1) != columns)) {
    auto count = [](py::ssize_t n) { return n >= 0 ? std::to_string(n) : std::string("any"); };
    refuse(name, "2-d of shape (" + count(rows) + ", " + count(columns) + ")", a);
  }
  const auto size = py::ssize_t(sizeof(T));
  const bool empty = a.size() == 0;  // NumPy gives empty arrays strides of 0
  const py::ssize_t step = a.shape(0) > 1 && !empty ? a.strides(0) : a.shape(1) * size;
  if ((a.shape(1) > 1 && !empty && a.strides(1) != size) || step < a.shape(1) * size || step % size)
    throw py::value_error(std::string(name) + " must have contiguous rows");
  return {data, size_t(a.shape(0)), size_t(a.shape(1)), size_t(step / size)};
}

// Whether two matrices share an element; rows of one buffer side by side do not.
template <class T> bool overlap(const T *a, size_t lda, const T *b, size_t ldb, size_t rows, size_t columns_a, size_t columns_b) {
  if (!a || !b || !rows || !columns_a || !columns_b) return false;
  const auto size = intptr_t(sizeof(T)), first = intptr_t(a), second = intptr_t(b);
  if (second >= first + intptr_t((rows - 1) * lda + columns_a) * size || first >= second + intptr_t((rows - 1) * ldb + columns_b) * size) return false;
  if (lda != ldb) return true;
  const auto ld = intptr_t(lda) * size, apart = ((second - first) % ld + ld) % ld;  // from a column of a to the next of b
  return apart < intptr_t(columns_a) * size || ld - apart < intptr_t(columns_b) * size;
}

inline py::array array_of(const py::object &a, const char *name) {
  if (!py::isinstance<py::array>(a)) throw py::type_error(std::string(name) + " must be a NumPy array or None");
  return py::reinterpret_borrow<py::array>(a);
}

// None gives a null pointer.
template <class T> T *optional_vector(const py::object &a, const char *name, py::ssize_t size, bool writable = false) {
  return a.is_none() ? nullptr : vector<T>(array_of(a, name), name, size, writable).data;
}
// A C-contiguous matrix or None.
template <class T> T *optional_matrix(const py::object &a, const char *name, py::ssize_t rows, py::ssize_t columns, bool writable = false) {
  if (a.is_none()) return nullptr;
  auto m = matrix<T>(array_of(a, name), name, rows, columns, writable);
  if (m.rows > 1 && m.ld != m.columns) throw py::value_error(std::string(name) + " must be C-contiguous");
  return m.data;
}

// Bits as bytes, each 0 or 1.
inline Matrix<const uint8_t> bits(const py::array &a, const char *name, py::ssize_t rows, py::ssize_t columns) {
  auto m = matrix<uint8_t>(a, name, rows, columns);
  unsigned seen = 0;
  for (size_t r = 0; r < m.rows; ++r)
    for (size_t i = 0; i < m.columns; ++i) seen |= m.data[r * m.ld + i];
  if (seen > 1)
    for (size_t r = 0; r < m.rows; ++r)
      for (size_t i = 0; i < m.columns; ++i)
        if (const unsigned value = m.data[r * m.ld + i]; value > 1)
          throw py::value_error(std::string(name) + " has values outside {0, 1} (first: " + std::to_string(value) + " at row " +
                                std::to_string(r) + ", column " + std::to_string(i) + ")");
  return {m.data, m.rows, m.columns, m.ld};
}

// The order of variables: uint32 (n_features,), or None for a null pointer.
inline const uint32_t *optional_order(const py::object &order, py::ssize_t n, const char *name = "order") {
  const uint32_t *permutation = optional_vector<uint32_t>(order, name, n);
  std::vector<bool> seen(permutation ? size_t(n) : 0, false);
  for (py::ssize_t i = 0; permutation && i < n; ++i) {
    if (permutation[i] >= size_t(n) || seen[permutation[i]])
      throw py::value_error(std::string(name) + " must be a permutation of 0.." + std::to_string(n - 1) + "; entry " + std::to_string(i) + " is " +
                            std::to_string(permutation[i]));
    seen[permutation[i]] = true;
  }
  return permutation;
}

// Runs a kernel without the GIL, answering Ctrl-C from the main thread; errors become exceptions.
template <class F> void run(int n_threads, F &&kernel) {
  if (n_threads < 0) throw py::value_error("n_threads must be a positive number, not " + std::to_string(n_threads));
  auto poll = [](void *) -> int32_t {
    py::gil_scoped_acquire gil;
    return PyErr_CheckSignals();  // runs handlers on Python's main thread alone
  };
  const chainrule_exec exec = {n_threads, poll, nullptr};
  chainrule_status status;
  {
    py::gil_scoped_release release;
    status = kernel(&exec);
  }
  if (status == CHAINRULE_NO_MEMORY) throw std::bad_alloc();
  if (status == CHAINRULE_INTERRUPTED) throw py::error_already_set();
}

// The table's entries by precision.
template <class T> struct Kernels;
#define CHAINRULE_ENTRY_f32(name) static auto name() { return api().name##_f32; }
#define CHAINRULE_ENTRY_f64(name) static auto name() { return api().name##_f64; }
#define CHAINRULE_ENTRIES(entry) \
  entry(nade_score) entry(nade_gradient) entry(nade_sample) entry(bernoulli_log_prob) entry(bernoulli_sample) \
  entry(bernoulli_gradient) entry(categorical_log_prob) entry(categorical_gradient) entry(categorical_sample) \
  entry(map) entry(logsumexp) entry(optimizer_step) entry(sum_squares) \
  entry(masked_linear) entry(masked_linear_input_gradient) entry(masked_linear_weight_gradient) entry(masked_linear_step) entry(sparse_linear) \
  entry(sparse_linear_weight_gradient) entry(sparse_linear_step) entry(permute_columns) entry(masked_sample) \
  entry(nade_categorical_score) entry(nade_categorical_gradient) entry(nade_categorical_sample) \
  entry(causal_conv) entry(causal_conv_input_gradient) entry(causal_conv_weight_gradient) entry(gated_block) \
  entry(gated_block_gradient) entry(embedding) entry(embedding_gradient) entry(wavenet_sample) \
  entry(logistic_mixture_log_prob) entry(logistic_mixture_gradient) entry(logistic_mixture_sample) \
  entry(layer_norm) entry(layer_norm_gradient) entry(gelu) entry(gelu_gradient) entry(dropout) entry(softmax_log_prob) entry(softmax_gradient) entry(softmax_sample) \
  entry(attention) entry(attention_gradient) entry(attention_step) entry(packed_linear) entry(transformer_step) \
  entry(masked_score)
template <> struct Kernels<float> {
  typedef chainrule_nade_f32 Nade;
  typedef chainrule_nade_categorical_f32 NadeCategorical;
  typedef chainrule_nade_gradient_f32 NadeGradient;
  typedef chainrule_linear_f32 Linear;
  typedef chainrule_layer_f32 Layer;
  typedef chainrule_network_f32 Network;
  typedef chainrule_conv_f32 Conv;
  typedef chainrule_sequences_f32 Sequences;
  typedef chainrule_gated_block_f32 GatedBlock;
  typedef chainrule_gated_block_gradient_f32 GatedBlockGradient;
  typedef chainrule_frames_f32 Frames;
  typedef chainrule_wavenet_f32 Wavenet;
  typedef chainrule_cache_f32 Cache;
  typedef chainrule_weights_f32 Weights;
  typedef chainrule_transformer_block_f32 TransformerBlock;
  typedef chainrule_transformer_f32 Transformer;
  CHAINRULE_ENTRIES(CHAINRULE_ENTRY_f32)
};
template <> struct Kernels<double> {
  typedef chainrule_nade_f64 Nade;
  typedef chainrule_nade_categorical_f64 NadeCategorical;
  typedef chainrule_nade_gradient_f64 NadeGradient;
  typedef chainrule_linear_f64 Linear;
  typedef chainrule_layer_f64 Layer;
  typedef chainrule_network_f64 Network;
  typedef chainrule_conv_f64 Conv;
  typedef chainrule_sequences_f64 Sequences;
  typedef chainrule_gated_block_f64 GatedBlock;
  typedef chainrule_gated_block_gradient_f64 GatedBlockGradient;
  typedef chainrule_frames_f64 Frames;
  typedef chainrule_wavenet_f64 Wavenet;
  typedef chainrule_cache_f64 Cache;
  typedef chainrule_weights_f64 Weights;
  typedef chainrule_transformer_block_f64 TransformerBlock;
  typedef chainrule_transformer_f64 Transformer;
  CHAINRULE_ENTRIES(CHAINRULE_ENTRY_f64)
};

// f<float>() or f<double>() by the dtype of the array that decides.
template <class F> void with_precision(const py::array &a, const char *name, F &&f) {
  if (py::isinstance<py::array_t<float>>(a)) return f.template operator()<float>();
  if (py::isinstance<py::array_t<double>>(a)) return f.template operator()<double>();
  throw py::type_error(std::string(name) + " must be float32 or float64, not " + std::string(py::str(a.dtype())));
}
