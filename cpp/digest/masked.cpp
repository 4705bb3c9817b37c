// Masked networks: products with masked and kept matrices, whole networks, and codes of rows.
#include "digest.hpp"

namespace proof {
namespace {

// One way round of a mask, from live(k, o).
struct Side {
  std::vector<uint32_t> words, spans, span_of = {0};
  template <class F> Side(size_t n_in, size_t n_out, F &&live) {
    for (size_t p = 0; 32 * p < n_out; ++p) {
      uint32_t before = 0;
      for (size_t k = 0; k < n_in; ++k) {
        uint32_t word = 0;
        for (size_t j = 0; j < 32 && 32 * p + j < n_out; ++j) word |= uint32_t(live(k, 32 * p + j)) << j;
        words.push_back(word);
        if (word && !before) spans.push_back(uint32_t(k)), spans.push_back(0);
        if (word) spans.back() = uint32_t(k + 1);
        before = word;
      }
      span_of.push_back(uint32_t(spans.size() / 2));
    }
    words.push_back(0), spans.push_back(0);  // never empty
  }
  chainrule_mask view() const { return {words.data(), spans.data(), span_of.data()}; }
};

// A masked matrix; dead weights, and those beyond the last output, are numbers that would be seen.
template <class T> struct Matrix {
  typedef std::conditional_t<std::is_same_v<T, float>, chainrule_linear_f32, chainrule_linear_f64> Linear;
  size_t n_in, n_out, ldw, panel;
  Side forward, backward;
  chainrule_mask mask, transposed;
  std::vector<T> W;
  template <class F>
  Matrix(Words &words, size_t n_in_, size_t n_out_, bool panels, T scale, F &&live)
      : n_in(n_in_), n_out(n_out_), ldw(panels ? 32 : n_out + 3), panel(panels ? 32 * n_in + 64 : 32), forward(n_in, n_out, live),
        backward(n_out, n_in, [&](size_t o, size_t k) { return live(k, o); }), mask(forward.view()), transposed(backward.view()),
        W(numbers<T>(words, panels ? (n_out + 31) / 32 * panel : n_in * ldw, scale)) {}
  Matrix(const Matrix &) = delete;
  Linear linear(bool dense = false) const {
    return {n_in, n_out, W.data(), ldw, panel, dense ? nullptr : &mask, dense ? nullptr : &transposed, nullptr, 0, 0};
  }
};

// The matrix that is kept as `matrix`, row k at rows[k], and is its transpose if `turned`.
template <class T> auto kept_as(const Matrix<T> &matrix, bool dense, const std::vector<uint32_t> &rows, bool turned) {
  auto w = matrix.linear(dense);
  if (turned) std::swap(w.n_in, w.n_out), std::swap(w.mask, w.transposed);
  w.rows = rows.data(), w.turned = turned, w.whole = true;
  return w;
}

// Rows of zeros and ones as indices.
struct Indices {
  size_t ld;
  std::vector<uint32_t> index, count;
  Indices(const std::vector<uint8_t> &x, size_t rows, size_t n, size_t ldx) : ld(n + 1), index(rows * ld, 7), count(rows) {
    for (size_t r = 0; r < rows; ++r)
      for (size_t k = 0; k < n; ++k)
        if (x[r * ldx + k]) index[r * ld + count[r]++] = uint32_t(k);
  }
  chainrule_ones from(size_t row) const { return {ld, &index[row * ld], &count[row]}; }
};

enum Shape { kDense, kStaircase, kRandom, kBlocks };
struct ProductCase {
  size_t rows, in, out;
  Shape shape;
  bool panels;
  int32_t activation;
};

// Tails of tiles, vectors and panels; more than one chunk of 256 inputs, outputs and rows; a row alone.
const ProductCase product_cases[] = {
    {1, 1, 1, kDense, false, CHAINRULE_IDENTITY},      {1, 600, 70, kRandom, false, CHAINRULE_TANH},
    {2, 300, 33, kStaircase, true, CHAINRULE_SIGMOID}, {23, 300, 300, kStaircase, true, CHAINRULE_RELU},
    {37, 65, 301, kRandom, false, CHAINRULE_IDENTITY}, {300, 290, 65, kStaircase, false, CHAINRULE_TANH},
    {515, 40, 33, kDense, true, CHAINRULE_SIGMOID},    {101, 577, 97, kBlocks, true, CHAINRULE_RELU},
    {90, 300, 300, kDense, false, CHAINRULE_RELU},
};

}  // namespace

template <class T> void products() {
  Words words{2015 * 2}, more{2017 * 2};
  Digest forward, input, weight, stepped, sparse, sparse_weight, sparse_stepped, permuted, placed[2];
  for (const ProductCase &c : product_cases) {
    const size_t rows = c.rows, ldx = c.in + 2, ldy = c.out + 1;
    std::vector<uint32_t> degree(c.out), block((c.in / 19 + 1) * (c.out / 32 + 1));
    for (uint32_t &d : degree) d = uint32_t(words.below(c.in + 1));
    std::sort(degree.begin(), degree.end());
    for (uint32_t &b : block) b = words.below(2) > 0;
    const std::vector<uint8_t> tenth = bits(words, c.in * c.out, 25);
    const auto live = [&](size_t k, size_t o) {
      return c.shape == kStaircase ? k < degree[o] : c.shape == kRandom ? tenth[k * c.out + o] != 0
             : c.shape == kBlocks  ? block[k / 19 * (c.out / 32 + 1) + o / 32] != 0 : true;
    };
    const Matrix<T> w(words, c.in, c.out, c.panels, T(0.25), live);
    const auto linear = w.linear(c.shape == kDense);
    const std::vector<T> x = numbers<T>(words, rows * ldx, T(1)), dy = numbers<T>(words, rows * ldy, T(0.125)),
                         addend = numbers<T>(words, rows * ldy, T(1)), b = numbers<T>(words, c.out, T(1)),
                         h = numbers<T>(words, rows * ldx, T(1));
    const Indices ones(bits(words, rows * ldx, 70), rows, c.in, ldx);
    std::vector<T> y(rows * ldy, 7), dx(rows * ldx, 7), plain(rows * ldy, 7), ys(rows * ldy, 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      const chainrule_ones part = ones.from(begin);
      check(KERNEL(sparse_linear)(&linear, end - begin, &part, &addend[begin * ldy], ldy, b.data(), c.activation, &ys[begin * ldy], ldy,
                                  &exec));
      check(KERNEL(masked_linear)(&linear, end - begin, &x[begin * ldx], ldx, nullptr, 0, nullptr, CHAINRULE_IDENTITY,
                                  &plain[begin * ldy], ldy, &exec));
      check(KERNEL(masked_linear)(&linear, end - begin, &x[begin * ldx], ldx, &addend[begin * ldy], ldy, b.data(), c.activation,
                                  &y[begin * ldy], ldy, &exec));
      return KERNEL(masked_linear_input_gradient)(&linear, end - begin, &dy[begin * ldy], ldy, &x[begin * ldx], ldx, &h[begin * ldx],
                                                  ldx, c.activation, &dx[begin * ldx], ldx, &exec);
    });
    forward.add(plain), forward.add(y), sparse.add(ys), input.add(dx);

    // Sums over rows belong to a batch: never split.
    std::vector<T> dW(w.W.size(), 7), db(c.out, 7);
    check(KERNEL(masked_linear_weight_gradient)(&linear, rows, x.data(), ldx, dy.data(), ldy, dW.data(), db.data(), &exec));
    weight.add(dW), weight.add(db);
    std::fill(dW.begin(), dW.end(), 7), std::fill(db.begin(), db.end(), 7);
    const chainrule_ones all_rows = ones.from(0);
    check(KERNEL(sparse_linear_weight_gradient)(&linear, rows, &all_rows, dy.data(), ldy, dW.data(), db.data(), &exec));
    sparse_weight.add(dW), sparse_weight.add(db);

    const Matrix<T> turned(more, c.out, c.in, c.panels, T(0.25), [&](size_t o, size_t k) { return live(k, o); });
    for (const bool turn : {false, true}) {
      const Matrix<T> &kept = turn ? turned : w;
      const std::vector<uint32_t> stands = permutation(more, kept.n_in);
      const auto at = kept_as(kept, c.shape == kDense, stands, turn);
      Digest &digest = placed[turn];
      check(KERNEL(masked_linear)(&at, rows, x.data(), ldx, &addend[0], ldy, b.data(), c.activation, y.data(), ldy, &exec));
      check(KERNEL(masked_linear_input_gradient)(&at, rows, dy.data(), ldy, nullptr, 0, h.data(), ldx, c.activation, dx.data(), ldx, &exec));
      dW.assign(kept.W.size(), 7);
      check(KERNEL(masked_linear_weight_gradient)(&at, rows, x.data(), ldx, dy.data(), ldy, dW.data(), db.data(), &exec));
      digest.add(y), digest.add(dx), digest.add(dW), digest.add(db);
      if (turn) continue;
      check(KERNEL(sparse_linear)(&at, rows, &all_rows, nullptr, 0, nullptr, CHAINRULE_IDENTITY, y.data(), ldy, &exec));
      check(KERNEL(sparse_linear_weight_gradient)(&at, rows, &all_rows, dy.data(), ldy, dW.data(), db.data(), &exec));
      digest.add(y), digest.add(dW), digest.add(db);
    }
    if (!c.panels) continue;
    for (int32_t rule = CHAINRULE_SGD; rule <= CHAINRULE_ADAM; ++rule)
      for (const bool bits : {false, true}) {
        std::vector<T> p = w.W, s(p.size(), T(0.25)), t(p.size(), T(0.5)), average(p.size(), T(1));
        T *also = rule % 2 ? average.data() : nullptr;
        const chainrule_optimizer o = {rule, 0.01, 0.9, 0.999, 0.1, 0.001, 1e-8, 0.01, 0.003, 0.7, 0.9};
        if (bits)
          check(KERNEL(sparse_linear_step)(&o, &linear, rows, &all_rows, dy.data(), ldy, p.data(), s.data(), t.data(), also, db.data(), &exec));
        else
          check(KERNEL(masked_linear_step)(&o, &linear, rows, x.data(), ldx, dy.data(), ldy, p.data(), s.data(), t.data(), also, db.data(), &exec));
        Digest &digest = bits ? sparse_stepped : stepped;
        digest.add(p), digest.add(s), digest.add(t), digest.add(average), digest.add(db);
      }
    permutation(words, c.in);  // words that the cases after this one have always come after
    const std::vector<uint32_t> columns = permutation(words, c.out);
    for (const bool back : {false, true}) {
      std::vector<T> there(w.W.size(), 7);
      check(KERNEL(permute_columns)(&linear, columns.data(), back, there.data(), &exec));
      permuted.add(there);
    }
  }
  line(std::string("masked_linear") + suffix<T>(), forward);
  line(std::string("masked_linear_input_gradient") + suffix<T>(), input);
  line(std::string("masked_linear_weight_gradient") + suffix<T>(), weight);
  line(std::string("masked_linear_step") + suffix<T>(), stepped);
  line(std::string("sparse_linear") + suffix<T>(), sparse);
  line(std::string("sparse_linear_weight_gradient") + suffix<T>(), sparse_weight);
  line(std::string("sparse_linear_step") + suffix<T>(), sparse_stepped);
  line(std::string("linear_rows") + suffix<T>(), placed[0]);
  line(std::string("linear_turned") + suffix<T>(), placed[1]);
  line(std::string("permute_columns") + suffix<T>(), permuted);
}
BOTH_PRECISIONS(products)

namespace {

struct NetworkCase {
  size_t features, largest, hidden, layers, rows;  // values of a variable: 1 to `largest`; 2: bits
  bool direct, residual, addend, order, reference, panels;
};
const NetworkCase network_cases[] = {
    {23, 2, 0, 0, 37, true, false, false, false, false, true},   {300, 2, 290, 1, 23, false, false, false, true, true, true},
    {40, 2, 70, 2, 37, true, false, true, true, true, false},    {37, 19, 300, 2, 29, true, true, false, true, true, true},
    {9, 256, 33, 3, 13, false, true, true, false, true, true},   {300, 3, 520, 1, 40, true, false, true, true, false, true},
};

}  // namespace

template <class T> void networks() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_layer_f32, chainrule_layer_f64> Layer;
  typedef std::conditional_t<single, chainrule_network_f32, chainrule_network_f64> Network;
  Words words{2016};
  Digest digest, scores;
  for (const NetworkCase &c : network_cases) {
    const size_t n = c.features, rows = c.rows, ldx = n + 2;
    std::vector<uint32_t> values(n, 2), first = {0}, variable;  // by column; by step; of each unit
    if (c.largest > 2)
      for (uint32_t &k : values) k = uint32_t(1 + words.below(c.largest));
    const std::vector<uint32_t> order = permutation(words, n);
    std::vector<uint8_t> reference(n);
    for (size_t i = 0; i < n; ++i) reference[i] = uint8_t(words.below(values[i]));
    for (size_t i = 0; i < n; ++i) {
      const uint32_t k = values[c.order ? order[i] : i];
      first.push_back(first.back() + k - 1);
      variable.insert(variable.end(), k - 1, uint32_t(i));
    }
    const size_t units = first.back(), lda = std::max(units, c.hidden) + 1;
    std::vector<int32_t> ready(c.hidden);  // a unit of degree m sees the variables 0 to m; -1: none
    for (int32_t &m : ready) m = int32_t(words.below(n)) - 1;
    std::sort(ready.begin(), ready.end());
    auto input = [&](size_t k, size_t o) { return int32_t(variable[k]) <= ready[o]; };
    auto between = [&](size_t k, size_t o) { return ready[k] <= ready[o]; };
    auto output = [&](size_t k, size_t o) { return ready[k] < int32_t(variable[o]); };
    auto past = [&](size_t k, size_t o) { return variable[k] < variable[o]; };
    const Matrix<T> W1(words, units, c.hidden, c.panels, T(0.25), input), W2(words, c.hidden, c.hidden, c.panels, T(0.125), between),
        W3(words, c.hidden, c.hidden, c.panels, T(0.125), between), V(words, c.hidden, units, c.panels, T(0.25), output),
        A(words, units, units, c.panels, T(0.5), past);
    const std::vector<T> b = numbers<T>(words, lda, T(0.5)), addend = numbers<T>(words, rows * lda, T(0.5));
    const std::vector<double> u = uniforms(words, rows * ldx);
    const std::vector<uint8_t> observed = bits(words, rows * ldx, 100);
    std::vector<uint8_t> drawn(rows * ldx, 0), completed(rows * ldx);
    std::vector<double> log_prob(rows), terms(rows * n);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i) completed[r * ldx + i] = uint8_t(words.below(values[i]));
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      const T *added = c.addend ? &addend[begin * lda] : nullptr;
      const int32_t residual = c.residual;
      const Layer hidden[] = {{W1.linear(), b.data(), added, lda, CHAINRULE_RELU, 0, ready.data()},
                              {W2.linear(), b.data(), added, lda, CHAINRULE_TANH, residual, ready.data()},
                              {W3.linear(), nullptr, added, lda, CHAINRULE_SIGMOID, residual, ready.data()}};
      Network net = {};
      net.n_features = n, net.n_layers = c.layers, net.hidden = hidden;
      net.order = c.order ? order.data() : nullptr, net.reference = c.reference ? reference.data() : nullptr;
      net.first = c.largest > 2 ? first.data() : nullptr;
      net.output.b = b.data(), net.output.addend = added, net.output.lda = lda, net.output.activation = CHAINRULE_IDENTITY;
      if (c.layers) net.output.linear = V.linear();
      if (c.direct) net.direct = A.linear();
      check(KERNEL(masked_sample)(&net, end - begin, &u[begin * ldx], ldx, nullptr, &drawn[begin * ldx], ldx, &exec));
      check(KERNEL(masked_sample)(&net, end - begin, &u[begin * ldx], ldx, &observed[begin * ldx], &completed[begin * ldx], ldx, &exec));
      return KERNEL(masked_score)(&net, end - begin, &completed[begin * ldx], ldx, &log_prob[begin], &terms[begin * n], &exec);
    });
    digest.add(drawn), digest.add(completed), scores.add(log_prob), scores.add(terms);
  }
  line(std::string("masked_sample") + suffix<T>(), digest), line(std::string("masked_score") + suffix<T>(), scores);
}
BOTH_PRECISIONS(networks)

void encode() {
  Words words{1844};
  Digest digest;
  for (size_t n : {size_t(1), size_t(8), size_t(37), size_t(300)})
    for (size_t largest : {size_t(2), size_t(256)}) {
      const size_t rows = 601, ldx = n + 2, ldi = n + 1;
      const std::vector<uint32_t> order = permutation(words, n);
      std::vector<uint32_t> first = {0}, index(rows * ldi, 7), count(rows, 7);
      std::vector<uint8_t> values(n), reference(n), x(rows * ldx, 9), y(rows * ldx, 9);
      for (size_t i = 0; i < n; ++i) values[i] = uint8_t(largest == 2 ? 1 : words.below(largest)), reference[i] = uint8_t(words.below(values[i] + 1u));
      for (size_t i = 0; i < n; ++i) first.push_back(first.back() + values[order[i]]);
      for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < n; ++i) x[r * ldx + i] = uint8_t(words.below(values[i] + 1u));
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return api->encode(end - begin, n, &x[begin * ldx], ldx, order.data(), reference.data(), largest == 2 ? nullptr : first.data(),
                           &y[begin * ldx], ldx, &index[begin * ldi], ldi, &count[begin], &exec);
      });
      for (size_t r = 0; r < rows; ++r) std::fill(&index[r * ldi] + count[r], &index[r * ldi] + n, 7);  // past its ones a row is unspecified
      digest.add(y), digest.add(index), digest.add(count);
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return api->encode(end - begin, n, &x[begin * ldx], ldx, nullptr, nullptr, nullptr, &y[begin * ldx], ldx, nullptr, 0, nullptr, &exec);
      });
      digest.add(y);
    }
  line("encode", digest);
}

}  // namespace proof
