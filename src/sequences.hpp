// Activations in time, (rows, steps, channels), matrices in panels and codes at the border.
#pragma once
#include "arrays.hpp"

inline std::string shape_text(std::initializer_list<size_t> shape) {
  std::string text = "(";
  for (size_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + ")";
}
inline size_t panels_of(size_t n, size_t lanes = 32) { return (n + lanes - 1) / lanes; }

// Channels contiguous, any distance between steps and between rows. A negative number: any.
template <class T>
typename Kernels<T>::Sequences sequences(const py::array &a, const char *name, py::ssize_t rows, py::ssize_t steps, py::ssize_t channels,
                                         bool writable = false) {
  T *data = data_of<T>(a, name, writable);
  const auto size = py::ssize_t(sizeof(T));
  auto differs = [&](int axis, py::ssize_t n) { return n >= 0 && a.shape(axis) != n; };
  if (a.ndim() != 3 || differs(0, rows) || differs(1, steps) || differs(2, channels)) {
    auto count = [](py::ssize_t n) { return n >= 0 ? std::to_string(n) : std::string("any"); };
    refuse(name, "3-d of shape (" + count(rows) + ", " + count(steps) + ", " + count(channels) + ")", a);
  }
  if (a.size() == 0) return {data, 0, 0};
  const py::ssize_t step = a.shape(1) > 1 ? a.strides(1) : a.shape(2) * size, row = a.shape(0) > 1 ? a.strides(0) : a.shape(1) * step;
  const bool apart = !writable || (step >= a.shape(2) * size && row >= (a.shape(1) - 1) * step + a.shape(2) * size);
  if ((a.shape(2) > 1 && a.strides(2) != size) || step < 0 || row < 0 || step % size || row % size || !apart)
    throw py::value_error(std::string(name) + " must have contiguous channels");
  return {data, size_t(row / size), size_t(step / size)};
}

// A matrix in panels, (panels, n_in, lanes), each after the other.
template <class T> T *panels(const py::array &a, const char *name, size_t count, size_t n_in, bool writable = false) {
  T *data = data_of<T>(a, name, writable);
  if (a.ndim() != 3 || size_t(a.shape(0)) != count || size_t(a.shape(1)) != n_in || a.shape(2) != 32)
    refuse(name, "in panels of shape " + shape_text({count, n_in, 32}), a);
  if (a.size() && !(a.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " must be C-contiguous");
  return data;
}

// Two arrays of which one is written must not share memory.
inline void apart(const py::array &out, const py::array &other, const char *name, const char *out_name = "out") {
  auto end = [](const py::array &a) {
    py::ssize_t last = 0;
    for (py::ssize_t i = 0; i < a.ndim(); ++i) last += a.shape(i) ? (a.shape(i) - 1) * a.strides(i) : 0;
    return static_cast<const char *>(a.data()) + last + a.itemsize();
  };
  if (!out.size() || !other.size()) return;
  if (static_cast<const char *>(out.data()) < end(other) && static_cast<const char *>(other.data()) < end(out))
    throw py::value_error(out_name + std::string(" must share no memory with ") + name);
}

inline void three_axes(const py::array &a, const char *name) {
  if (a.ndim() != 3) refuse(name, "3-d (rows, steps, channels)", a);
}

// Indices below n_values, or negative for none.
inline const int32_t *indices(const py::array &index, const char *name, size_t n_values) {
  auto v = vector<int32_t>(index, name, -1);
  for (size_t i = 0; i < v.size; ++i)
    if (v.data[i] >= 0 && size_t(v.data[i]) >= n_values)
      throw py::value_error(std::string(name) + " must be below " + std::to_string(n_values) + "; entry " + std::to_string(i) + " is " + std::to_string(v.data[i]));
  return v.data;
}
