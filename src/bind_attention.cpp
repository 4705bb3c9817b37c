// Attention, its caches, products with packed weights, and a Transformer's step.
#include <algorithm>
#include <variant>
#include <vector>

#include "sequences.hpp"

namespace {

size_t whole_panels(size_t n) { return panels_of(n) * 32; }

py::tuple tuple_of(const py::handle &given, size_t size, const std::string &name, const char *rule) {
  if (!py::isinstance<py::tuple>(given) || py::len(given) != size) throw py::value_error(name + " must be " + rule);
  return py::reinterpret_borrow<py::tuple>(given);
}
template <class T> T integer_of(const py::handle &given, const std::string &name) {
  try {
    return py::cast<T>(given);
  } catch (const py::cast_error &) {
    throw py::type_error(name + " must be an integer in range, not " + std::string(py::str(given)));
  }
}

// What a call reads and writes: the memory it writes must be shared with nothing else.
struct Memory {
  const char *name;
  bool written;
  const char *begin, *end;
  Memory(const py::array &a, const char *name, bool written) : name(name), written(written), begin(static_cast<const char *>(a.data())), end(begin) {
    for (py::ssize_t i = 0; a.size() && i < a.ndim(); ++i) end += (a.shape(i) - 1) * a.strides(i);
    if (a.size()) end += a.itemsize();
  }
};
void keep_apart(std::vector<Memory> all) {
  std::sort(all.begin(), all.end(), [](const Memory &a, const Memory &b) { return a.begin < b.begin; });
  const Memory *any = nullptr, *written = nullptr;  // of those so far the one that ends last
  for (const Memory &m : all) {
    if (m.begin == m.end) continue;
    if (const Memory *other = m.written ? any : written; other && m.begin < other->end) {
      const Memory &first = m.written ? m : *other, &second = m.written ? *other : m;
      const std::string with = std::string(first.name) == second.name ? "one another" : second.name;
      throw py::value_error(first.name + std::string(" must share no memory with ") + with);
    }
    if (!any || m.end > any->end) any = &m;
    if (m.written && (!written || m.end > written->end)) written = &m;
  }
}

chainrule_attention attention_of(size_t n_heads, size_t n_kv_heads, size_t head_size, double scale, bool causal) {
  if (!n_heads || !n_kv_heads || n_heads % n_kv_heads) throw py::value_error("n_heads must be a multiple of n_kv_heads, not " + std::to_string(n_heads) + " and " + std::to_string(n_kv_heads));
  if (!head_size) throw py::value_error("a head must have channels");
  return {n_heads, n_kv_heads, head_size, scale, causal};
}
// Of queries (rows, steps, n_heads head_size).
chainrule_attention attention_of(const py::array &q, size_t n_heads, size_t n_kv_heads, double scale, bool causal) {
  three_axes(q, "q");
  if (!n_heads || size_t(q.shape(2)) % n_heads) refuse("q", "of channels that are a multiple of n_heads = " + std::to_string(n_heads), q);
  return attention_of(n_heads, n_kv_heads, size_t(q.shape(2)) / n_heads, scale, causal);
}

const uint32_t *lengths_of(const py::object &lengths, const char *name, py::ssize_t rows, size_t most) {
  const uint32_t *n = optional_vector<uint32_t>(lengths, name, rows);
  for (py::ssize_t r = 0; n && r < rows; ++r)
    if (n[r] > most) throw py::value_error(std::string(name) + " must be at most " + std::to_string(most) + "; entry " + std::to_string(r) + " is " + std::to_string(n[r]));
  return n;
}

// q, k and v of one call.
template <class T> struct Operands {
  chainrule_attention attention;
  py::ssize_t rows, queries, keys;
  typename Kernels<T>::Sequences q, k, v;
};
template <class T>
Operands<T> operands(const py::array &q, const py::array &k, const py::array &v, size_t n_heads, size_t n_kv_heads, double scale, bool causal) {
  Operands<T> o;
  o.attention = attention_of(q, n_heads, n_kv_heads, scale, causal);
  three_axes(k, "k");
  o.rows = q.shape(0), o.queries = q.shape(1), o.keys = k.shape(1);
  const auto channels = py::ssize_t(n_kv_heads * o.attention.head_size);
  o.q = sequences<T>(q, "q", -1, -1, -1), o.k = sequences<T>(k, "k", o.rows, -1, channels), o.v = sequences<T>(v, "v", o.rows, o.keys, channels);
  return o;
}

// (rows, heads, queries), contiguous.
template <class T> T *statistics_of(const py::object &statistics, py::ssize_t rows, size_t n_heads, py::ssize_t queries, bool writable) {
  if (statistics.is_none()) return nullptr;
  const py::array a = array_of(statistics, "statistics");
  T *data = data_of<T>(a, "statistics", writable);
  if (a.ndim() != 3 || a.shape(0) != rows || size_t(a.shape(1)) != n_heads || a.shape(2) != queries || !(a.flags() & py::array::c_style))
    refuse("statistics", "C-contiguous of shape " + shape_text({size_t(rows), n_heads, size_t(queries)}), a);
  return data;
}

void attention(const py::array &q, const py::array &k, const py::array &v, size_t n_heads, size_t n_kv_heads, double scale, bool causal,
               const py::object &lengths, const py::array &y, const py::object &statistics, int n_threads) {
  with_precision(q, "q", [&]<class T>() {
    auto o = operands<T>(q, k, v, n_heads, n_kv_heads, scale, causal);
    auto out = sequences<T>(y, "out", o.rows, o.queries, q.shape(2), true);
    const uint32_t *n = lengths_of(lengths, "lengths", o.rows, size_t(o.keys));
    T *sums = statistics_of<T>(statistics, o.rows, n_heads, o.queries, true);
    std::vector<Memory> memory = {{q, "q", false}, {k, "k", false}, {v, "v", false}, {y, "out", true}};
    if (sums) memory.emplace_back(array_of(statistics, "statistics"), "statistics", true);
    keep_apart(memory);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::attention()(&o.attention, size_t(o.rows), size_t(o.queries), size_t(o.keys), n, &o.q, &o.k, &o.v, &out, sums, exec);
    });
  });
}

// Outputs of one call may be channels side by side of one array's steps.
template <class S>
void side_by_side(const S &a, const py::array &of_a, const char *name_a, const S &b, const py::array &of_b, const char *name_b) {
  const bool one_step = of_a.shape(1) == 1 && of_b.shape(1) == 1;
  const size_t lda = one_step ? a.row : a.ld, ldb = one_step ? b.row : b.ld;
  // Steps lda apart: where in a step of the one that begins first the other's channels stand.
  const size_t distance = lda ? size_t(std::abs(a.data - b.data)) % lda : 0;
  const size_t left = size_t((a.data < b.data ? of_a : of_b).shape(2)), right = size_t((a.data < b.data ? of_b : of_a).shape(2));
  if (of_a.size() && of_b.size() && lda == ldb && a.row % lda == 0 && b.row % lda == 0 && left <= distance && distance + right <= lda) return;
  keep_apart({{of_a, name_a, true}, {of_b, name_b, true}});
}

void attention_gradient(const py::array &q, const py::array &k, const py::array &v, const py::array &y, const py::object &statistics, const py::array &dy,
                        size_t n_heads, size_t n_kv_heads, double scale, bool causal, const py::object &lengths, const py::array &dq, const py::array &dk,
                        const py::array &dv, int n_threads) {
  with_precision(q, "q", [&]<class T>() {
    auto o = operands<T>(q, k, v, n_heads, n_kv_heads, scale, causal);
    if (statistics.is_none()) throw py::value_error("statistics must be given: those of attention");
    const T *sums = statistics_of<T>(statistics, o.rows, n_heads, o.queries, false);
    auto result = sequences<T>(y, "y", o.rows, o.queries, q.shape(2)), slope = sequences<T>(dy, "dy", o.rows, o.queries, q.shape(2));
    auto to_q = sequences<T>(dq, "dq", o.rows, o.queries, q.shape(2), true);
    auto to_k = sequences<T>(dk, "dk", o.rows, o.keys, k.shape(2), true), to_v = sequences<T>(dv, "dv", o.rows, o.keys, k.shape(2), true);
    const uint32_t *n = lengths_of(lengths, "lengths", o.rows, size_t(o.keys));
    const Memory inputs[] = {{q, "q", false}, {k, "k", false}, {v, "v", false}, {y, "y", false}, {array_of(statistics, "statistics"), "statistics", false}, {dy, "dy", false}};
    for (const Memory &out : {Memory(dq, "dq", true), Memory(dk, "dk", true), Memory(dv, "dv", true)})
      for (const Memory &in : inputs) keep_apart({in, out});
    side_by_side(to_q, dq, "dq", to_k, dk, "dk"), side_by_side(to_q, dq, "dq", to_v, dv, "dv"), side_by_side(to_k, dk, "dk", to_v, dv, "dv");
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::attention_gradient()(&o.attention, size_t(o.rows), size_t(o.queries), size_t(o.keys), n, &o.q, &o.k, &o.v, &result, sums, &slope,
                                              &to_q, &to_k, &to_v, exec);
    });
  });
}

// (keys, values, capacity) for some sequences; those that new steps are added to have room for them.
template <class T>
typename Kernels<T>::Cache cache_of(const py::handle &given, py::ssize_t rows, const chainrule_attention &attention, const uint32_t *lengths, size_t n_new,
                                    const char *name, bool written, std::vector<Memory> &memory) {
  const py::tuple cache = tuple_of(given, 3, name, "(keys, values, capacity)");
  const py::array keys = array_of(cache[0], name), values = array_of(cache[1], name);
  const auto capacity = integer_of<size_t>(cache[2], std::string(name) + "'s capacity");
  const size_t d = attention.head_size;
  auto checked = [&](const py::array &a, std::initializer_list<size_t> shape) {
    T *data = data_of<T>(a, name, written);
    bool same = a.ndim() == py::ssize_t(shape.size()) && (a.flags() & py::array::c_style);
    for (size_t i = 0; same && i < shape.size(); ++i) same = size_t(a.shape(py::ssize_t(i))) == shape.begin()[i];
    if (!same) refuse(name, "C-contiguous of shape " + shape_text(shape), a);
    memory.emplace_back(a, name, written);
    return data;
  };
  T *k = checked(keys, {size_t(rows), attention.n_kv_heads, panels_of(capacity), d, 32});
  T *v = checked(values, {size_t(rows), attention.n_kv_heads, capacity, whole_panels(d)});
  for (py::ssize_t r = 0; r < rows; ++r)
    if (lengths[r] > capacity || n_new > capacity - lengths[r])
      throw py::value_error(std::string(name) + " has room for " + std::to_string(capacity) + " steps; sequence " + std::to_string(r) + " has " +
                            std::to_string(lengths[r]) + " and " + std::to_string(n_new) + " new ones");
  return {k, v, capacity};
}

void attention_step(const py::array &q, const py::object &k, const py::object &v, const py::object &cache, const py::array &lengths, size_t n_heads,
                    size_t n_kv_heads, double scale, bool causal, const py::array &y, int n_threads) {
  with_precision(q, "q", [&]<class T>() {
    auto a = attention_of(q, n_heads, n_kv_heads, scale, causal);
    const py::ssize_t rows = q.shape(0), steps = q.shape(1), channels = py::ssize_t(n_kv_heads * a.head_size);
    auto from = sequences<T>(q, "q", -1, -1, -1), out = sequences<T>(y, "out", rows, steps, q.shape(2), true);
    if (k.is_none() != v.is_none()) throw py::value_error("k and v must be given both, or neither");
    std::vector<Memory> memory = {{q, "q", false}, {y, "out", true}};
    auto new_steps = [&](const py::object &given, const char *name) {
      typename Kernels<T>::Sequences view{};
      if (given.is_none()) return view;
      view = sequences<T>(array_of(given, name), name, rows, steps, channels), memory.emplace_back(array_of(given, name), name, false);
      return view;
    };
    const auto key = new_steps(k, "k"), value = new_steps(v, "v");
    const uint32_t *n = vector<uint32_t>(lengths, "lengths", rows).data;
    auto kept = cache_of<T>(cache, rows, a, n, k.is_none() ? 0 : size_t(steps), "cache", !k.is_none(), memory);
    keep_apart(memory);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::attention_step()(&a, size_t(rows), size_t(steps), n, &from, k.is_none() ? nullptr : &key, k.is_none() ? nullptr : &value, &kept, &out, exec);
    });
  });
}

// (W, n_out, scale, b); the format is W's dtype.
template <class T> typename Kernels<T>::Weights weights_of(const py::handle &given, const char *name, py::ssize_t n_in) {
  const py::tuple weights = tuple_of(given, 4, name, "(W, n_out, scale, b)");
  const py::array W = array_of(weights[0], name);
  const auto n_out = integer_of<py::ssize_t>(weights[1], std::string(name) + "'s n_out");
  if (n_out < 1) throw py::value_error(std::string(name) + " must have outputs, not " + std::to_string(n_out));
  if (W.ndim() != 3 || size_t(W.shape(0)) != panels_of(size_t(n_out)) || (n_in >= 0 && W.shape(1) != n_in) || W.shape(2) != 32 || !(W.flags() & py::array::c_style))
    refuse(name, "C-contiguous in panels (" + std::to_string(panels_of(size_t(n_out))) + ", " + (n_in < 0 ? "n_in" : std::to_string(n_in)) + ", 32)", W);
  if (!W.shape(1)) throw py::value_error(std::string(name) + " must have inputs");
  int32_t format;
  if (py::isinstance<py::array_t<T>>(W)) format = CHAINRULE_PLAIN;
  else if (py::isinstance<py::array_t<uint16_t>>(W)) format = CHAINRULE_BF16;
  else if (py::isinstance<py::array_t<int8_t>>(W)) format = CHAINRULE_INT8;
  else throw py::type_error(std::string(name) + " must be " + dtype_name<T>() + ", uint16 (bf16) or int8, not " + std::string(py::str(W.dtype())));
  if (reinterpret_cast<uintptr_t>(W.data()) % uintptr_t(W.itemsize())) throw py::value_error(std::string(name) + " is not aligned to its elements");
  const size_t in = size_t(W.shape(1)), chunks = (in + 255) / 256;
  const float *scale = nullptr;
  if (format == CHAINRULE_INT8) {
    if (weights[2].is_none()) throw py::value_error(std::string(name) + " must have a scale, being int8");
    const py::array a = array_of(weights[2], "scale");
    scale = data_of<float>(a, "scale", false);
    if (a.ndim() != 3 || a.shape(0) != W.shape(0) || size_t(a.shape(1)) != chunks || a.shape(2) != 32 || !(a.flags() & py::array::c_style))
      refuse("scale", "C-contiguous of shape " + shape_text({size_t(W.shape(0)), chunks, 32}), a);
  }
  return {in, size_t(n_out), format, W.data(), scale, optional_vector<T>(py::reinterpret_borrow<py::object>(weights[3]), "b", n_out)};
}

void packed_linear(const py::array &x, const py::object &weights, const py::object &addend, const py::array &y, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = matrix<T>(x, "x", -1, -1);
    auto w = weights_of<T>(weights, "weights", py::ssize_t(in.columns));
    auto out = matrix<T>(y, "out", py::ssize_t(in.rows), py::ssize_t(w.n_out), true);
    Matrix<T> add{nullptr, 0, 0, 0};
    std::vector<Memory> memory = {{x, "x", false}, {y, "out", true}};
    if (!addend.is_none()) {
      const py::array a = array_of(addend, "addend");
      add = matrix<T>(a, "addend", py::ssize_t(in.rows), py::ssize_t(w.n_out)), memory.emplace_back(a, "addend", false);
    }
    keep_apart(memory);
    run(n_threads, [&](auto *exec) { return Kernels<T>::packed_linear()(&w, in.rows, in.data, in.ld, add.data, add.ld, out.data, out.ld, exec); });
  });
}

// A network made once for many steps: views of arrays, which it keeps alive.
template <class T> struct Net {
  std::vector<typename Kernels<T>::TransformerBlock> blocks;
  typename Kernels<T>::Transformer view;
  size_t n_positions;
};
struct Transformer {
  std::variant<Net<float>, Net<double>> net;
  py::object kept;
};

template <class T>
Net<T> net_of(const py::list &blocks, const py::object &token, const py::object &output, const py::array &position, const py::object &norm, size_t n_heads,
              size_t n_kv_heads, size_t head_size, double scale, bool post_norm, int activation, double epsilon) {
  Net<T> net;
  auto table = matrix<T>(position, "position", -1, -1);
  const auto width = py::ssize_t(table.columns);
  if (table.ld != table.columns) throw py::value_error("position must be C-contiguous");
  if (blocks.empty()) throw py::value_error("blocks must be some");
  if (!(epsilon > 0 && epsilon < 1e30)) throw py::value_error("epsilon must be positive, not " + std::string(py::str(py::float_(epsilon))));
  auto &view = net.view;
  view.attention = attention_of(n_heads, n_kv_heads, head_size, scale, true);
  if (activation < -2 || activation > CHAINRULE_IDENTITY) throw py::value_error("activation must be -2 to 3, not " + std::to_string(activation));
  view.width = table.columns, view.position = table.data, net.n_positions = table.rows;
  view.post_norm = post_norm, view.activation = activation, view.epsilon = epsilon;
  view.token = weights_of<T>(token, "token", width), view.output = weights_of<T>(output, "output", width);
  view.n_values = view.token.n_out;
  auto pair = [&](const py::object &given, const char *name, const T *&gain, const T *&bias) {
    gain = bias = nullptr;
    if (given.is_none()) return;
    const py::tuple both = tuple_of(given, 2, name, "(gain, bias)");
    gain = vector<T>(array_of(both[0], name), name, width).data, bias = vector<T>(array_of(both[1], name), name, width).data;
  };
  pair(norm, "norm", view.norm_gain, view.norm_bias);
  const auto heads = py::ssize_t(n_heads * head_size), kept = py::ssize_t(n_kv_heads * head_size);
  for (const auto &item : blocks) {
    const py::tuple given = tuple_of(item, 9, "a block", "a TransformerBlock, of 9 parts");
    auto part = [&](size_t i) { return py::reinterpret_borrow<py::object>(given[i]); };
    auto weights = [&](size_t i, const char *name, py::ssize_t n_in, py::ssize_t n_out) {
      auto w = weights_of<T>(given[i], name, n_in);
      if (n_out >= 0 && w.n_out != size_t(n_out)) throw py::value_error(std::string(name) + " must have " + std::to_string(n_out) + " outputs, not " + std::to_string(w.n_out));
      return w;
    };
    typename Kernels<T>::TransformerBlock block{};
    pair(part(0), "norm", block.norm_gain, block.norm_bias);
    block.query_key_value = weights(1, "query_key_value", width, heads + 2 * kept), block.projection = weights(2, "projection", heads, width);
    pair(part(3), "cross_norm", block.cross_norm_gain, block.cross_norm_bias);
    if (part(3).is_none() != part(4).is_none() || part(4).is_none() != part(5).is_none())
      throw py::value_error("cross_norm, cross_query and cross_projection must be given all, or none");
    if (!part(4).is_none()) block.cross_query = weights(4, "cross_query", width, heads), block.cross_projection = weights(5, "cross_projection", heads, width);
    pair(part(6), "mlp_norm", block.mlp_norm_gain, block.mlp_norm_bias);
    block.up = weights(7, "up", width, -1), block.down = weights(8, "down", py::ssize_t(block.up.n_out), width);
    if (!block.norm_gain || !block.mlp_norm_gain) throw py::value_error("a block's norms must be given");
    net.blocks.push_back(block);
    if (!block.cross_query.W != !net.blocks[0].cross_query.W) throw py::value_error("blocks must all have cross-attention, or none");
  }
  view.n_blocks = net.blocks.size();
  return net;
}

void transformer_step(Transformer &transformer, const py::array &tokens, const py::array &lengths, const py::object &caches, const py::object &last,
                      const py::object &cross, const py::object &cross_lengths, const py::object &logits, int n_threads) {
  std::visit([&]<class T>(Net<T> &net) {
    net.view.blocks = net.blocks.data();
    auto codes = matrix<int32_t>(tokens, "tokens", -1, -1);
    const auto rows = py::ssize_t(codes.rows), steps = py::ssize_t(codes.columns);
    for (size_t r = 0; r < codes.rows; ++r)
      for (size_t t = 0; t < codes.columns; ++t)
        if (const int32_t code = codes.data[r * codes.ld + t]; code >= 0 && size_t(code) >= net.view.n_values)
          throw py::value_error("tokens must be below " + std::to_string(net.view.n_values) + "; that of row " + std::to_string(r) + ", step " + std::to_string(t) +
                                " is " + std::to_string(code));
    const uint32_t *n = vector<uint32_t>(lengths, "lengths", rows).data;
    for (py::ssize_t r = 0; r < rows; ++r)
      if (n[r] > net.n_positions || codes.columns > net.n_positions - n[r])
        throw py::value_error("tokens must end within " + std::to_string(net.n_positions) + " positions; row " + std::to_string(r) + " has " + std::to_string(n[r]) +
                              " and " + std::to_string(steps) + " new ones");
    std::vector<Memory> memory;
    auto all = [&](const py::object &given, const uint32_t *kept_lengths, size_t n_new, const char *name, bool written) {
      if (!py::isinstance<py::list>(given) || py::len(given) != net.blocks.size()) throw py::value_error(std::string(name) + " must be a list of one cache for every block");
      std::vector<typename Kernels<T>::Cache> views;
      for (const auto &item : given) views.push_back(cache_of<T>(item, rows, net.view.attention, kept_lengths, n_new, name, written, memory));
      return views;
    };
    auto kept = all(caches, n, codes.columns, "caches", true);
    std::vector<typename Kernels<T>::Cache> seen;
    const uint32_t *seen_lengths = optional_vector<uint32_t>(cross_lengths, "cross_lengths", rows);
    if (cross.is_none() != !net.blocks[0].cross_query.W) throw py::value_error("cross must be given for a network with cross-attention, and for no other");
    if (!cross.is_none()) {
      if (!seen_lengths) throw py::value_error("cross_lengths must be given with cross");
      seen = all(cross, seen_lengths, 0, "cross", false);
    }
    const uint32_t *at = optional_vector<uint32_t>(last, "last", rows);
    for (py::ssize_t r = 0; at && r < rows; ++r)
      if (at[r] >= codes.columns) throw py::value_error("last must be below the number of steps, " + std::to_string(steps) + "; entry " + std::to_string(r) + " is " + std::to_string(at[r]));
    Matrix<T> out{nullptr, 0, 0, 0};
    if (!logits.is_none()) {
      const py::array a = array_of(logits, "out");
      out = matrix<T>(a, "out", at ? rows : rows * steps, py::ssize_t(net.view.output.n_out), true), memory.emplace_back(a, "out", true);
    }
    keep_apart(memory);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::transformer_step()(&net.view, codes.rows, codes.columns, codes.data, codes.ld, n, at, kept.data(), seen.empty() ? nullptr : seen.data(),
                                            seen_lengths, out.data, out.ld, exec);
    });
  }, transformer.net);
}

}  // namespace

void bind_attention(py::module_ &m) {
  using py::arg;
  m.def("attention", &attention, arg("q"), arg("k"), arg("v"), arg("n_heads"), arg("n_kv_heads"), arg("scale"), arg("causal"), arg("lengths"), arg("out"),
        arg("statistics"), arg("n_threads"));
  m.def("attention_gradient", &attention_gradient, arg("q"), arg("k"), arg("v"), arg("y"), arg("statistics"), arg("dy"), arg("n_heads"), arg("n_kv_heads"),
        arg("scale"), arg("causal"), arg("lengths"), arg("dq"), arg("dk"), arg("dv"), arg("n_threads"));
  m.def("attention_step", &attention_step, arg("q"), arg("k"), arg("v"), arg("cache"), arg("lengths"), arg("n_heads"), arg("n_kv_heads"), arg("scale"),
        arg("causal"), arg("out"), arg("n_threads"));
  m.def("packed_linear", &packed_linear, arg("x"), arg("weights"), arg("addend"), arg("out"), arg("n_threads"));
  py::class_<Transformer>(m, "Transformer")
      .def(py::init([](const py::list &blocks, const py::object &token, const py::object &output, const py::array &position, const py::object &norm, size_t n_heads,
                       size_t n_kv_heads, size_t head_size, double scale, bool post_norm, int activation, double epsilon) {
             Transformer made;
             made.kept = py::make_tuple(py::tuple(blocks), token, output, position, norm);
             with_precision(position, "position", [&]<class T>() {
               made.net = net_of<T>(blocks, token, output, position, norm, n_heads, n_kv_heads, head_size, scale, post_norm, activation, epsilon);
             });
             return made;
           }),
           arg("blocks"), arg("token"), arg("output"), arg("position"), arg("norm"), arg("n_heads"), arg("n_kv_heads"), arg("head_size"), arg("scale"),
           arg("post_norm"), arg("activation"), arg("epsilon"));
  m.def("transformer_step", &transformer_step, arg("network"), arg("tokens"), arg("lengths"), arg("caches"), arg("last"), arg("cross"), arg("cross_lengths"),
        arg("logits"), arg("n_threads"));
}
