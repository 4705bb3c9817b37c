// Columns of codes 0..K-1 at the border: where each one's logits are, and which values it may have.
#pragma once
#include <algorithm>
#include <vector>

#include "arrays.hpp"

struct Columns {
  size_t n_features;
  const uint32_t *first;      // [n_features + 1], by step
  const uint8_t *reference;   // [n_features], by column, or NULL
  std::vector<uint8_t> largest;  // by column

  // n_logits, `what` in messages, are what `first` ends at; order (checked, of the length of first less one) or NULL.
  Columns(const py::array &first_, const py::object &reference_, size_t n_logits, const char *what, const py::object &order = py::none()) {
    auto starts = vector<uint32_t>(first_, "first", -1);
    if (starts.size == 0) throw py::value_error("first must have an entry for each column and one more, not none");
    first = starts.data, n_features = starts.size - 1;
    if (first[0] != 0) throw py::value_error("first must start at 0, not " + std::to_string(first[0]));
    const uint32_t *column = optional_order(order, py::ssize_t(n_features));
    largest.resize(n_features);
    for (size_t i = 0; i < n_features; ++i) {
      const std::string entry = "entry " + std::to_string(i + 1) + " is " + std::to_string(first[i + 1]) + " after " + std::to_string(first[i]);
      if (first[i + 1] < first[i]) throw py::value_error("first must not decrease: " + entry);
      if (first[i + 1] - first[i] > 255) throw py::value_error("first must give a column at most 256 values, which are 255 logits: " + entry);
      largest[column ? column[i] : i] = uint8_t(first[i + 1] - first[i]);
    }
    if (first[n_features] != n_logits)
      throw py::value_error("first must end at the number of " + std::string(what) + ", " + std::to_string(n_logits) + ", not " + std::to_string(first[n_features]));
    reference = optional_vector<uint8_t>(reference_, "reference", py::ssize_t(n_features));
    for (size_t i = 0; reference && i < n_features; ++i)
      if (reference[i] > largest[i])
        throw py::value_error("reference must be a value of each column: entry " + std::to_string(i) + " is " + std::to_string(int(reference[i])) +
                              ", column " + std::to_string(i) + " has values 0.." + std::to_string(int(largest[i])));
  }

  Matrix<uint8_t> values(const py::array &x, const char *name, py::ssize_t rows) const {
    auto m = matrix<uint8_t>(x, name, rows, py::ssize_t(n_features));
    for (size_t r = 0; r < m.rows; ++r) {
      const uint8_t *row = m.data + r * m.ld;
      unsigned wrong = 0;
      for (size_t i = 0; i < n_features; ++i) wrong |= unsigned(row[i] > largest[i]);
      for (size_t i = 0; wrong && i < n_features; ++i)
        if (row[i] > largest[i])
          throw py::value_error(std::string(name) + " has values outside those of their columns (first: " + std::to_string(int(row[i])) + " at row " +
                                std::to_string(r) + ", column " + std::to_string(i) + ", which has 0.." + std::to_string(int(largest[i])) + ")");
    }
    return m;
  }
};
