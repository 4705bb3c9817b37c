// Every kernel of chainrule from a plain C++ program, each held to a law.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "chainrule/chainrule.h"

namespace {

const chainrule_api *cr;

void law(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::exit(1);
}
void ok(chainrule_status status) { law(status == CHAINRULE_OK, "a kernel returns CHAINRULE_OK"); }

const uint64_t key[2] = {7, 11};

std::vector<double> uniforms(uint64_t first_block, size_t n) {
  std::vector<double> u(n);
  ok(cr->uniforms(key, first_block, n, u.data(), nullptr));
  for (double v : u) law(0 < v && v < 1, "uniforms lie in (0, 1)");
  return u;
}

std::vector<float> parameters(uint64_t first_block, size_t n) {
  const std::vector<double> u = uniforms(first_block, n);
  std::vector<float> p(n);
  std::transform(u.begin(), u.end(), p.begin(), [](double v) { return float(4 * v - 2); });
  return p;
}

void densities() {
  const size_t n = 8, d = 19, states = 1 << n;
  const std::vector<float> W = parameters(0, n * d), V = parameters(1000, n * d), b = parameters(2000, n),
                           c = parameters(3000, d);
  const uint32_t order[] = {3, 1, 0, 7, 2, 6, 5, 4};
  const uint8_t flip[] = {0, 1, 0, 0, 1, 1, 0, 1};
  const chainrule_nade_f32 model = {n, d, W.data(), V.data(), b.data(), c.data(), d, d, CHAINRULE_TANH, order, flip};

  std::vector<uint8_t> x(states * n);
  for (size_t s = 0; s < states; ++s)
    for (size_t i = 0; i < n; ++i) x[s * n + i] = (s >> i) & 1;
  std::vector<double> log_prob(states), terms(states * n), again(states * n);
  std::vector<float> logits(states * n);
  ok(cr->nade_score_f32(&model, states, x.data(), n, log_prob.data(), terms.data(), logits.data(), nullptr));
  double total = 0;
  for (double l : log_prob) total += std::exp(l);
  law(std::fabs(total - 1) < 1e-5, "a float32 density sums to one over its 256 states");
  ok(cr->bernoulli_log_prob_f32(states, n, logits.data(), n, x.data(), n, nullptr, again.data(), nullptr));
  law(again == terms, "log p(x_i | x_<i) is the Bernoulli log-likelihood of logit i, bit for bit");

  // In double: the same sum by logsumexp, and the gradient against a central difference.
  const std::vector<double> W2(W.begin(), W.end()), V2(V.begin(), V.end()), b2(b.begin(), b.end());
  std::vector<double> c2(c.begin(), c.end());
  const chainrule_nade_f64 exact = {n, d, W2.data(), V2.data(), b2.data(), c2.data(), d, d, CHAINRULE_TANH, order,
                                    flip};
  ok(cr->nade_score_f64(&exact, states, x.data(), n, log_prob.data(), nullptr, nullptr, nullptr));
  double log_total;
  ok(cr->logsumexp_f64(1, states, log_prob.data(), states, &log_total, nullptr));
  law(std::fabs(log_total) < 1e-12, "a float64 density sums to one over its 256 states");

  std::vector<double> dW(n * d), dV(n * d), db(n), dc(d), at(23);
  const chainrule_nade_gradient_f64 gradient = {dW.data(), dV.data(), db.data(), dc.data(), d, d};
  ok(cr->nade_gradient_f64(&exact, 23, x.data(), n, nullptr, nullptr, &gradient, nullptr));
  auto loss = [&](double shift) {
    c2[5] += shift;
    ok(cr->nade_score_f64(&exact, 23, x.data(), n, at.data(), nullptr, nullptr, nullptr));
    c2[5] -= shift;
    double sum = 0;
    for (double l : at) sum -= l / 23;
    return sum;
  };
  law(std::fabs((loss(1e-5) - loss(-1e-5)) / 2e-5 - dc[5]) < 1e-8, "the gradient is the slope of the mean loss");

  // Samples: as frequent as they are probable, and the draws that their own conditionals make from the same uniforms.
  const size_t draws = 40000;
  const std::vector<double> u = uniforms(1 << 20, draws * n);
  std::vector<uint8_t> drawn(draws * n), redrawn(draws * n);
  std::vector<float> z(draws * n);
  std::vector<double> by_column(draws * n), count(states);
  ok(cr->nade_sample_f32(&model, draws, u.data(), n, nullptr, drawn.data(), n, nullptr));
  ok(cr->nade_score_f32(&model, draws, drawn.data(), n, nullptr, nullptr, z.data(), nullptr));
  double worst = 0;
  for (size_t r = 0; r < draws; ++r) {
    size_t s = 0;
    for (size_t i = 0; i < n; ++i) s |= size_t(drawn[r * n + i]) << i;
    count[s] += 1;
    for (size_t i = 0; i < n; ++i) by_column[r * n + order[i]] = u[r * n + i];
  }
  for (size_t s = 0; s < states; ++s) {
    const double expected = draws * std::exp(log_prob[s]);
    worst = std::max(worst, std::fabs(count[s] - expected) / std::sqrt(expected + 1));
  }
  law(worst < 5, "samples are as frequent as they are probable");
  ok(cr->bernoulli_sample_f32(draws, n, z.data(), n, by_column.data(), n, redrawn.data(), n, nullptr));
  law(redrawn == drawn, "the sampler's conditionals are the scorer's, bit for bit");
  std::vector<uint8_t> observed(draws * n), completed(draws * n);
  for (size_t k = 0; k < draws * n; k += 3) observed[k] = 1, completed[k] = drawn[k];
  ok(cr->nade_sample_f32(&model, draws, u.data(), n, observed.data(), completed.data(), n, nullptr));
  law(completed == drawn, "observing what would be drawn anyway changes nothing");
}

void conditionals() {
  // Columns of 1, 2, 3 and 5 values, every row of them; value 2 of the third and 4 of the last have logit 0.
  const size_t n = 4, values[] = {1, 2, 3, 5}, states = 30, n_logits = 7;
  const uint32_t first[] = {0, 0, 1, 3, 7};
  const uint8_t reference[] = {0, 0, 2, 4};
  const std::vector<float> row = parameters(1 << 23, n_logits);
  const std::vector<double> exact_row(row.begin(), row.end());
  std::vector<float> logits, dlogits(states * n_logits);
  std::vector<double> exact, exact_gradient(states * n_logits), log_prob(states), terms(states * n), again(states);
  std::vector<uint8_t> x(states * n);
  for (size_t s = 0; s < states; ++s) {
    logits.insert(logits.end(), row.begin(), row.end()), exact.insert(exact.end(), exact_row.begin(), exact_row.end());
    for (size_t i = 0, rest = s; i < n; rest /= values[i++]) x[s * n + i] = uint8_t(rest % values[i]);
  }
  double total = 0;
  ok(cr->categorical_log_prob_f32(states, n, first, reference, logits.data(), n_logits, x.data(), n, log_prob.data(), nullptr,
                                  nullptr));
  for (double l : log_prob) total += std::exp(l);
  law(std::fabs(total - 1) < 1e-5, "a float32 product of categories sums to one over its 30 states");
  ok(cr->categorical_log_prob_f64(states, n, first, reference, exact.data(), n_logits, x.data(), n, nullptr, terms.data(),
                                  nullptr));
  const double z = exact_row[6];  // code 4 of the last column is value 0, as 4 is its reference
  law(std::fabs(terms[3] - terms[4 * 6 * n + 3] - z) < 1e-14, "log p(0) - log p(reference) is the logit of the reference's code");

  std::vector<float> half(states, 0.5f);
  ok(cr->categorical_gradient_f32(states, n, first, reference, logits.data(), n_logits, x.data(), n, half.data(), again.data(),
                                  dlogits.data(), n_logits, nullptr));
  law(again == log_prob, "the gradient's log p is the scorer's, bit for bit");
  ok(cr->categorical_gradient_f64(states, n, first, reference, exact.data(), n_logits, x.data(), n, nullptr, nullptr,
                                  exact_gradient.data(), n_logits, nullptr));
  double worst = 0;
  for (size_t k = 0; k < n_logits; ++k) {
    double mean = 0;  // of the score under the density itself
    for (size_t s = 0; s < states; ++s) {
      mean += std::exp(log_prob[s]) * exact_gradient[s * n_logits + k];
      worst = std::max(worst, std::fabs(dlogits[s * n_logits + k] - 0.5 * states * exact_gradient[s * n_logits + k]));
    }
    law(std::fabs(mean) < 1e-6, "the expected score is zero");
  }
  law(worst < 1e-6, "float and double gradients agree, and weights scale them");

  const size_t draws = 30000;
  const std::vector<double> u = uniforms(1 << 24, draws * n);
  std::vector<double> many, count(states);
  std::vector<float> many_single;
  std::vector<uint8_t> drawn(draws * n), drawn_single(draws * n);
  for (size_t r = 0; r < draws; ++r)
    many.insert(many.end(), exact_row.begin(), exact_row.end()), many_single.insert(many_single.end(), row.begin(), row.end());
  ok(cr->categorical_sample_f64(draws, n, first, reference, many.data(), n_logits, u.data(), n, drawn.data(), n, nullptr));
  ok(cr->categorical_sample_f32(draws, n, first, reference, many_single.data(), n_logits, u.data(), n, drawn_single.data(), n,
                                nullptr));
  law(drawn == drawn_single, "logits of either precision draw alike");
  for (size_t r = 0; r < draws; ++r)
    count[drawn[r * n + 1] + 2 * (drawn[r * n + 2] + 3 * size_t(drawn[r * n + 3]))] += 1;
  worst = 0;
  for (size_t s = 0; s < states; ++s) {
    const double expected = draws * std::exp(log_prob[s]);
    worst = std::max(worst, std::fabs(count[s] - expected) / std::sqrt(expected + 1));
  }
  law(worst < 5, "categories are drawn as often as they are probable");

  // A bit's gradient, in place: half of sigmoid(0) - x.
  std::vector<float> bit = {0, 0};
  std::vector<double> two = {0, 0};
  const uint8_t bits[] = {0, 1};
  const float weight[] = {0.5f};
  double one_log_prob;
  ok(cr->bernoulli_gradient_f32(1, 2, bit.data(), 2, bits, 2, weight, &one_log_prob, bit.data(), 2, nullptr));
  law(bit[0] == 0.25f && bit[1] == -0.25f, "a bit's gradient is weight (sigmoid(z) - x)");
  law(std::fabs(one_log_prob + 2 * std::log(2.0)) < 1e-6, "two fair bits");
  ok(cr->bernoulli_gradient_f64(1, 2, two.data(), 2, bits, 2, nullptr, nullptr, two.data(), 2, nullptr));
  law(two[0] == 0.5 && two[1] == -0.5, "the weight of one row is 1");
}

// The masks of a chain: output i sees input i - 1 alone, one panel.
struct Chain {
  std::vector<uint32_t> words, back, spans, span_of = {0, 1};
  explicit Chain(uint32_t n) : words(n), back(n), spans({0, n}) {
    for (uint32_t k = 0; k + 1 < n; ++k) words[k] = 2u << k, back[k + 1] = 1u << k;
  }
  chainrule_mask live() const { return {words.data(), spans.data(), span_of.data()}; }
  chainrule_mask transposed() const { return {back.data(), spans.data(), span_of.data()}; }
};

void masked() {
  // A hidden layer of one unit a variable, unit i for input i alone, and outputs that see the unit before them: a Markov chain.
  const uint32_t n = 6, states = 1 << n;
  std::vector<float> W(n * n, NAN), V(n * n, NAN), b = parameters(1 << 25, n), c = parameters((1 << 25) + 100, n), x(states * n),
      h(states * n), again(states * n), z(states * n), dz(states * n), dh(states * n);
  const std::vector<float> numbers = parameters((1 << 25) + 200, 2 * n);
  std::vector<uint32_t> own(n), spans = {0, n}, span_of = {0, 1}, order(n), index(states * n), count(states);
  for (uint32_t i = 0; i < n; ++i) {
    own[i] = 1u << i, order[i] = n - 1 - i, W[i * n + i] = numbers[i];
    if (i + 1 < n) V[i * n + i + 1] = numbers[n + i];
  }
  const Chain chain(n);
  const chainrule_mask diagonal = {own.data(), spans.data(), span_of.data()}, live = chain.live(), transposed = chain.transposed();
  const chainrule_linear_f32 in = {n, n, W.data(), n, 32, &diagonal, &diagonal, nullptr, 0, 0};
  const chainrule_linear_f32 out = {n, n, V.data(), n, 32, &live, &transposed, nullptr, 0, 0};

  // Rows of codes in the order of the chain, and the ones of each; dense and by their ones the same.
  std::vector<uint8_t> rows(states * n), codes(states * n);
  for (size_t s = 0; s < states; ++s)
    for (size_t i = 0; i < n; ++i) rows[s * n + i] = (s >> i) & 1;
  ok(cr->encode(states, n, rows.data(), n, order.data(), nullptr, nullptr, codes.data(), n, index.data(), n, count.data(), nullptr));
  for (size_t k = 0; k < states * n; ++k) {
    law(codes[k] == rows[k / n * n + order[k % n]], "codes stand in the order of the chain");
    x[k] = codes[k];
  }
  const chainrule_ones ones = {n, index.data(), count.data()};
  ok(cr->masked_linear_f32(&in, states, x.data(), n, nullptr, 0, b.data(), CHAINRULE_TANH, h.data(), n, nullptr));
  ok(cr->sparse_linear_f32(&in, states, &ones, nullptr, 0, b.data(), CHAINRULE_TANH, again.data(), n, nullptr));
  law(h == again, "a product of zeros and ones is a sum of rows, bit for bit");
  ok(cr->masked_linear_f32(&out, states, h.data(), n, nullptr, 0, c.data(), CHAINRULE_IDENTITY, z.data(), n, nullptr));
  std::vector<double> log_prob(states);
  ok(cr->bernoulli_gradient_f32(states, n, z.data(), n, codes.data(), n, nullptr, log_prob.data(), dz.data(), n, nullptr));
  double total = 0;
  for (double l : log_prob) total += std::exp(l);
  law(std::fabs(total - 1) < 1e-5, "a masked network's density sums to one; dead weights of NaN have no part in it");

  // Backwards: weights against one difference, bits of sparse and dense alike, dead entries left alone.
  std::vector<float> dW(n * n, 7), dV(n * n, 7), sparse(n * n, 7), db(n), db_again(n);
  ok(cr->masked_linear_weight_gradient_f32(&out, states, h.data(), n, dz.data(), n, dV.data(), nullptr, nullptr));
  ok(cr->masked_linear_input_gradient_f32(&out, states, dz.data(), n, nullptr, 0, h.data(), n, CHAINRULE_TANH, dh.data(), n, nullptr));
  ok(cr->masked_linear_weight_gradient_f32(&in, states, x.data(), n, dh.data(), n, dW.data(), db.data(), nullptr));
  ok(cr->sparse_linear_weight_gradient_f32(&in, states, &ones, dh.data(), n, sparse.data(), db_again.data(), nullptr));
  law(dW == sparse && db == db_again, "gradients by ones are the dense ones, bit for bit");
  law(dW[1] == 7 && dV[0] == 7, "weights outside the mask have no gradient");
  auto loss = [&](float shift) {
    const float kept = W[0];
    W[0] += shift;
    ok(cr->masked_linear_f32(&in, states, x.data(), n, nullptr, 0, b.data(), CHAINRULE_TANH, h.data(), n, nullptr));
    ok(cr->masked_linear_f32(&out, states, h.data(), n, nullptr, 0, c.data(), CHAINRULE_IDENTITY, again.data(), n, nullptr));
    ok(cr->bernoulli_log_prob_f32(states, n, again.data(), n, codes.data(), n, log_prob.data(), nullptr, nullptr));
    W[0] = kept;
    double sum = 0;
    for (double l : log_prob) sum -= l / states;
    return sum;
  };
  law(std::fabs((loss(0.01f) - loss(-0.01f)) / 0.02 - dW[0]) < 1e-4, "a weight's gradient is the slope of the mean loss");

  // The sampler draws what its own logits draw from the same uniforms.
  const size_t draws = 1000;
  std::vector<int32_t> ready(n);
  for (uint32_t i = 0; i < n; ++i) ready[i] = int32_t(i);
  const chainrule_layer_f32 hidden = {in, b.data(), nullptr, 0, CHAINRULE_TANH, 0, ready.data()};
  chainrule_network_f32 net = {};
  net.n_features = n, net.n_layers = 1, net.order = order.data(), net.hidden = &hidden;
  net.output.linear = out, net.output.b = c.data(), net.output.activation = CHAINRULE_IDENTITY;
  const std::vector<double> u = uniforms(1 << 26, draws * n);
  std::vector<uint8_t> drawn(draws * n), in_order(draws * n), redrawn(draws * n);
  ok(cr->masked_sample_f32(&net, draws, u.data(), n, nullptr, drawn.data(), n, nullptr));
  std::vector<uint32_t> some(draws * n), how_many(draws);
  ok(cr->encode(draws, n, drawn.data(), n, order.data(), nullptr, nullptr, in_order.data(), n, some.data(), n, how_many.data(), nullptr));
  const chainrule_ones theirs = {n, some.data(), how_many.data()};
  std::vector<float> g(draws * n), logits(draws * n);
  ok(cr->sparse_linear_f32(&in, draws, &theirs, nullptr, 0, b.data(), CHAINRULE_TANH, g.data(), n, nullptr));
  ok(cr->masked_linear_f32(&out, draws, g.data(), n, nullptr, 0, c.data(), CHAINRULE_IDENTITY, logits.data(), n, nullptr));
  ok(cr->bernoulli_sample_f32(draws, n, logits.data(), n, u.data(), n, redrawn.data(), n, nullptr));
  law(in_order == redrawn, "the masked sampler's conditionals are the scorer's");
  std::vector<double> at_once(draws), apart(draws);
  ok(cr->masked_score_f32(&net, draws, drawn.data(), n, at_once.data(), nullptr, nullptr));
  ok(cr->bernoulli_log_prob_f32(draws, n, logits.data(), n, in_order.data(), n, apart.data(), nullptr, nullptr));
  law(at_once == apart, "a network scores in one call what it scores layer by layer");

  // Double precision once: a product in panels, its columns in another order, its rows elsewhere, and a draw.
  std::vector<double> P(2 * n * 32), Q(P), R(P), wide(40), ones2(n, 1), d2(n), y2(40), g2(P);
  for (size_t k = 0; k < P.size(); ++k) P[k] = double(k % 97);
  std::vector<uint32_t> columns(40);
  for (uint32_t o = 0; o < 40; ++o) columns[o] = 39 - o;
  const chainrule_linear_f64 panels = {n, 40, P.data(), 32, n * 32, nullptr, nullptr, nullptr, 0, 0};
  ok(cr->permute_columns_f64(&panels, columns.data(), 0, Q.data(), nullptr));
  law(Q[0] == P[n * 32 + 7], "the first column of the permuted matrix is the last one");
  ok(cr->masked_linear_f64(&panels, 1, ones2.data(), n, nullptr, 0, nullptr, CHAINRULE_IDENTITY, wide.data(), 40, nullptr));
  double sum = 0;
  for (size_t k = 0; k < n; ++k) sum += P[k * 32];
  law(wide[0] == sum, "a product with ones is a sum over inputs");
  const uint32_t every[] = {0, 1, 2, 3, 4, 5}, six = n;
  const chainrule_ones all = {n, every, &six};
  ok(cr->sparse_linear_f64(&panels, 1, &all, nullptr, 0, nullptr, CHAINRULE_IDENTITY, y2.data(), 40, nullptr));
  law(y2 == wide, "and by the ones of a row");
  ok(cr->masked_linear_input_gradient_f64(&panels, 1, wide.data(), 40, nullptr, 0, nullptr, 0, CHAINRULE_IDENTITY, d2.data(), n, nullptr));
  ok(cr->masked_linear_weight_gradient_f64(&panels, 1, ones2.data(), n, wide.data(), 40, g2.data(), nullptr, nullptr));
  ok(cr->sparse_linear_weight_gradient_f64(&panels, 1, &all, wide.data(), 40, R.data(), nullptr, nullptr));
  law(g2[32] == wide[0] && R[32] == wide[0], "the gradient by a weight from a one is that of its output");
  const chainrule_optimizer adam = {CHAINRULE_ADAM, 0.1, 0.9, 0.999, 0.1, 0.001, 1e-8, 0, 0, 1, 0};
  std::vector<double> p1(P), s1(P.size()), t1(P.size()), p2(P), s2(P.size()), t2(P.size());
  ok(cr->masked_linear_step_f64(&adam, &panels, 1, ones2.data(), n, wide.data(), 40, p1.data(), s1.data(), t1.data(), nullptr, nullptr, nullptr));
  ok(cr->optimizer_step_f64(&adam, P.size(), p2.data(), g2.data(), s2.data(), t2.data(), nullptr, 0, nullptr, nullptr));
  law(p1[32] == p2[32] && s1[32] == s2[32] && t1[32] == t2[32] && p1[32] != P[32], "a step by a product is a step by its gradient");
  std::vector<double> p3(P), s3(P.size()), t3(P.size());
  ok(cr->sparse_linear_step_f64(&adam, &panels, 1, &all, wide.data(), 40, p3.data(), s3.data(), t3.data(), nullptr, nullptr, nullptr));
  law(p3 == p1 && s3 == s1 && t3 == t1, "and so it is by the ones of a row");
  std::vector<float> pf(P.begin(), P.end()), sf(P.size()), xf(n, 1), wf(wide.begin(), wide.end());
  const chainrule_linear_f32 flat = {n, 40, pf.data(), 32, n * 32, nullptr, nullptr, nullptr, 0, 0};
  const chainrule_optimizer momentum = {CHAINRULE_MOMENTUM, 0.5, 0.9, 0, 1, 1, 0, 0, 0, 1, 0};
  ok(cr->masked_linear_step_f32(&momentum, &flat, 1, xf.data(), n, wf.data(), 40, pf.data(), sf.data(), nullptr, nullptr, nullptr, nullptr));
  std::vector<float> pg(P.begin(), P.end()), sg(P.size());
  ok(cr->sparse_linear_step_f32(&momentum, &flat, 1, &all, wf.data(), 40, pg.data(), sg.data(), nullptr, nullptr, nullptr, nullptr));
  law(pg == pf && sg == sf, "in either precision");
  law(sf[32] == -0.5f * wf[0] && pf[32] == float(P[32]) + sf[32], "and its velocity starts against the gradient");
  std::vector<float> single(P.begin(), P.end()), there(P.size()), one(n);
  std::vector<float> row(40), kept = {1, 2, 3, 4, 5, 6};  // one output, kept as its transpose: a row of n
  const chainrule_linear_f32 elsewhere = {n, 40, single.data(), 32, n * 32, nullptr, nullptr, order.data(), 0, 0};
  const chainrule_linear_f32 turned = {n, 1, kept.data(), n, 32, nullptr, nullptr, nullptr, 1, 0};
  ok(cr->permute_columns_f32(&elsewhere, columns.data(), 1, there.data(), nullptr));
  law(there[n * 32 + 7] == single[0], "and back, the last column is the first");
  one[1] = 1;
  ok(cr->masked_linear_f32(&elsewhere, 1, one.data(), n, nullptr, 0, nullptr, CHAINRULE_IDENTITY, row.data(), 40, nullptr));
  law(row[3] == single[order[1] * 32 + 3], "row k stands at rows[k]");
  ok(cr->masked_linear_f32(&turned, 1, one.data(), n, nullptr, 0, nullptr, CHAINRULE_IDENTITY, row.data(), 1, nullptr));
  law(row[0] == kept[1], "a turned matrix is kept as its transpose");
  const double zeros[] = {0, 0, 0, 0}, half[] = {0.5, 0.5};
  const uint32_t from_first[] = {2, 0}, pair[] = {0, 1}, of_panel[] = {0, 1};
  const chainrule_mask strict = {from_first, pair, of_panel};
  chainrule_network_f64 fair = {};
  fair.n_features = 2, fair.direct = {2, 2, zeros, 2, 32, &strict, nullptr, nullptr, 0, 0};
  ok(cr->masked_sample_f64(&fair, 1, half, 2, nullptr, drawn.data(), 2, nullptr));
  law(drawn[0] == 1 && drawn[1] == 1, "u = 1/2 draws ones from logits of 0");
  double fair_coins = 0;
  ok(cr->masked_score_f64(&fair, 1, drawn.data(), 2, &fair_coins, nullptr, nullptr));
  law(std::fabs(fair_coins - 2 * std::log(0.5)) < 1e-15, "logits of 0 are fair coins");
}

void functions() {
  const std::vector<double> u = uniforms(1 << 30, 1003);
  std::vector<double> y(u.size()), back(u.size());
  auto map = [](int32_t function, const std::vector<double> &from, std::vector<double> &to) {
    ok(cr->map_f64(function, from.size(), from.data(), to.data(), nullptr));
  };
  auto equal = [](const std::vector<double> &a, const std::vector<double> &b) {
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
    return worst < 1e-14;
  };
  map(CHAINRULE_LOG, u, y), map(CHAINRULE_EXP, y, back);
  law(equal(back, u), "exp(log u) = u");
  map(CHAINRULE_LOG1P, u, y), map(CHAINRULE_EXPM1, y, back);
  law(equal(back, u), "expm1(log1p u) = u");
  map(CHAINRULE_SIN, u, y), map(CHAINRULE_COS, u, back);
  for (size_t i = 0; i < u.size(); ++i) y[i] = y[i] * y[i] + back[i] * back[i];
  law(equal(y, std::vector<double>(u.size(), 1.0)), "sin^2 + cos^2 = 1");
  struct { int32_t function; double (*exact)(double); const char *what; } others[] = {
      {CHAINRULE_SIGMOID_OF, [](double v) { return 1 / (1 + std::exp(-v)); }, "sigmoid"},
      {CHAINRULE_TANH_OF, [](double v) { return std::tanh(v); }, "tanh"},
      {CHAINRULE_SOFTPLUS, [](double v) { return std::log1p(std::exp(v)); }, "softplus"},
      {CHAINRULE_ERF, [](double v) { return std::erf(v); }, "erf"}};
  for (auto &other : others) {
    map(other.function, u, y);
    std::transform(u.begin(), u.end(), back.begin(), other.exact);
    law(equal(y, back), other.what);
  }
  std::vector<float> x = parameters(1 << 21, 100), in_place = x;
  ok(cr->map_f32(CHAINRULE_EXP, x.size(), in_place.data(), in_place.data(), nullptr));
  float sum = 0, log_sum;
  for (float v : in_place) sum += v;
  ok(cr->logsumexp_f32(1, x.size(), x.data(), x.size(), &log_sum, nullptr));
  law(std::fabs(log_sum - std::log(sum)) < 1e-5f, "logsumexp is the log of the sum of exp");
}

void training() {
  // NADE with Adam learns a certain row: its log-likelihood rises towards 0.
  const size_t n = 5, d = 4, size = 2 * n * d + n + d;
  std::vector<float> p = parameters(1 << 22, size), g(size), m(size), v(size);
  const uint8_t x[] = {1, 0, 1, 1, 0};
  double first = 0, last = 0;
  double power1 = 1, power2 = 1;
  for (int step = 0; step < 300; ++step) {
    const chainrule_nade_f32 model = {n, d, &p[0], &p[n * d], &p[2 * n * d], &p[2 * n * d + n], d, d, CHAINRULE_SIGMOID,
                                      nullptr, nullptr};
    const chainrule_nade_gradient_f32 gradient = {&g[0], &g[n * d], &g[2 * n * d], &g[2 * n * d + n], d, d};
    ok(cr->nade_gradient_f32(&model, 1, x, n, nullptr, step ? &last : &first, &gradient, nullptr));
    power1 *= 0.9, power2 *= 0.999;
    const chainrule_optimizer adam = {CHAINRULE_ADAM, 0.1, 0.9, 0.999, 1 - power1, 1 - power2, 1e-8, 0, 0, 1, 0};
    ok(cr->optimizer_step_f32(&adam, size, p.data(), g.data(), m.data(), v.data(), nullptr, 0, nullptr, nullptr));
  }
  law(first < -1 && last > -0.01 && last <= 0, "Adam on NADE's gradient learns a row");

  // The other kernels of double precision, once each.
  std::vector<double> z = {0.5, -1, 2}, u = {0.9, 0.1, 0.2}, q = {1, 1, 1}, mean(3), square(3);
  const uint8_t bits[] = {1, 0, 1};
  uint8_t drawn[3];
  double total;
  ok(cr->bernoulli_log_prob_f64(1, 3, z.data(), 3, bits, 3, &total, nullptr, nullptr));
  law(std::fabs(total + std::log1p(std::exp(-0.5)) + std::log1p(std::exp(-1.0)) + std::log1p(std::exp(-2.0))) < 1e-14,
      "log p of bits is -sum softplus((1 - 2x) z)");
  ok(cr->bernoulli_sample_f64(1, 3, z.data(), 3, u.data(), 3, drawn, 3, nullptr));
  law(drawn[0] == 1 && drawn[1] == 0 && drawn[2] == 1, "x = 1 where u >= sigmoid(-z)");
  const chainrule_optimizer adam = {CHAINRULE_ADAM, 0.1, 0.9, 0.999, 1 - 0.9, 1 - 0.999, 0, 0, 0, 1, 0};
  ok(cr->optimizer_step_f64(&adam, 3, q.data(), z.data(), mean.data(), square.data(), nullptr, 0, nullptr, nullptr));
  law(std::fabs(q[0] - 0.9) < 1e-12 && std::fabs(q[1] - 1.1) < 1e-12, "Adam's first step is lr in each direction");
  float norm[2] = {3, 4};
  double sum;
  ok(cr->sum_squares_f32(2, norm, &sum, nullptr));
  law(sum == 25, "3^2 + 4^2 = 5^2");
  ok(cr->sum_squares_f64(3, z.data(), &sum, nullptr));
  law(sum == 5.25, "squares add up in double");
  const double one = 1, zero = 0;
  const chainrule_nade_f64 fair = {1, 1, &zero, &one, &zero, &zero, 1, 1, CHAINRULE_RELU, nullptr, nullptr};
  const double half = 0.5;
  ok(cr->nade_sample_f64(&fair, 1, &half, 1, nullptr, drawn, 1, nullptr));
  law(drawn[0] == 1, "u = 1/2 draws a 1 from logit 0");
}

void nade_over_categories() {
  // Columns of 3, 1, 2 and 4 values, of which the last comes first in the order.
  const size_t n = 4, d = 11, values[] = {3, 1, 2, 4}, states = 24, n_logits = 6;
  const uint32_t order[] = {3, 0, 1, 2}, first[] = {0, 3, 5, 5, 6}, by_column[] = {0, 2, 2, 3, 6};
  const uint8_t reference[] = {2, 0, 1, 0};
  const std::vector<float> W = parameters(1 << 25, n_logits * d), V = parameters((1 << 25) + 1000, n_logits * d),
                           b = parameters((1 << 25) + 2000, n_logits), c = parameters((1 << 25) + 3000, d);
  const chainrule_nade_categorical_f32 model = {n, d, W.data(), V.data(), b.data(), c.data(), d, d, CHAINRULE_SIGMOID, order, first, reference};
  std::vector<uint8_t> x(states * n);
  for (size_t s = 0; s < states; ++s)
    for (size_t i = 0, rest = s; i < n; rest /= values[i++]) x[s * n + i] = uint8_t(rest % values[i]);
  std::vector<double> log_prob(states), terms(states * n), again(states * n);
  std::vector<float> logits(states * n_logits);
  ok(cr->nade_categorical_score_f32(&model, states, x.data(), n, log_prob.data(), terms.data(), logits.data(), nullptr));
  double total = 0;
  for (double l : log_prob) total += std::exp(l);
  law(std::fabs(total - 1) < 1e-5, "a density over categories sums to one over its 24 states");
  ok(cr->categorical_log_prob_f32(states, n, by_column, reference, logits.data(), n_logits, x.data(), n, nullptr, again.data(), nullptr));
  law(again == terms, "log p(x_i | x_<i) is the categorical log-likelihood of its logits, bit for bit");
  std::vector<double> u = uniforms(1 << 26, states * n), own(states * n);
  std::vector<uint8_t> drawn(states * n), redrawn(states * n);
  ok(cr->nade_categorical_sample_f32(&model, states, u.data(), n, nullptr, drawn.data(), n, nullptr));
  ok(cr->nade_categorical_score_f32(&model, states, drawn.data(), n, nullptr, nullptr, logits.data(), nullptr));
  for (size_t k = 0; k < states * n; ++k) own[k / n * n + order[k % n]] = u[k];
  ok(cr->categorical_sample_f32(states, n, by_column, reference, logits.data(), n_logits, own.data(), n, redrawn.data(), n, nullptr));
  law(redrawn == drawn, "categories are drawn from the scorer's conditionals, bit for bit");

  const std::vector<double> W2(W.begin(), W.end()), V2(V.begin(), V.end()), b2(b.begin(), b.end());
  std::vector<double> c2(c.begin(), c.end()), dW(n_logits * d), dV(n_logits * d), db(n_logits), dc(d);
  const chainrule_nade_categorical_f64 exact = {n, d, W2.data(), V2.data(), b2.data(), c2.data(), d, d, CHAINRULE_SIGMOID, order, first, reference};
  const chainrule_nade_gradient_f64 gradient = {dW.data(), dV.data(), db.data(), dc.data(), d, d};
  ok(cr->nade_categorical_gradient_f64(&exact, states, x.data(), n, nullptr, nullptr, &gradient, nullptr));
  auto loss = [&](double shift) {
    c2[5] += shift;
    ok(cr->nade_categorical_score_f64(&exact, states, x.data(), n, log_prob.data(), nullptr, nullptr, nullptr));
    c2[5] -= shift;
    double sum = 0;
    for (double l : log_prob) sum -= l / states;
    return sum;
  };
  law(std::fabs((loss(1e-5) - loss(-1e-5)) / 2e-5 - dc[5]) < 1e-8, "the gradient over categories is the slope of the mean loss");
}

// Sixteen levels under three logistics, one of them far narrower than a level and one off the scale.
template <class T, class Score, class Gradient, class Sample>
std::vector<int32_t> levels(Score *score, Gradient *gradient, Sample *sample, double tolerance) {
  const int32_t N = 16;
  const size_t size = 9, draws = 20000;
  const chainrule_logistic_mixture mixture = {1, 3, N, -7};
  const T row[size] = {0, T(0.5), -1, T(-0.3), T(0.2), 4, T(-1.5), -20, 1};
  std::vector<T> parameters, many, d(N * size);
  std::vector<int32_t> x, drawn(draws);
  std::vector<double> log_prob(N), again(N), terms(N), count(N);
  for (int32_t v = 0; v < N; ++v) parameters.insert(parameters.end(), row, row + size), x.push_back(v);
  for (size_t r = 0; r < draws; ++r) many.insert(many.end(), row, row + size);
  ok(score(&mixture, N, parameters.data(), size, x.data(), 1, log_prob.data(), terms.data(), nullptr));
  double total = 0, worst = 0;
  for (double l : log_prob) total += std::exp(l);
  law(std::fabs(total - 1) < tolerance, "a mixture of logistics sums to one over its levels");
  law(terms == log_prob, "the term of one variable is the row's");
  ok(gradient(&mixture, N, parameters.data(), size, x.data(), 1, nullptr, again.data(), d.data(), size, nullptr));
  law(again == log_prob, "the mixture's gradient has the scorer's log p");
  for (size_t k = 0; k < size; ++k) {
    double mean = 0;
    for (int32_t v = 0; v < N; ++v) mean += std::exp(log_prob[size_t(v)]) * double(d[size_t(v) * size + k]);
    law(std::fabs(mean) < 1000 * tolerance, "the mixture's expected score is zero");
  }
  const std::vector<double> u = uniforms(1 << 25, draws);
  ok(sample(&mixture, draws, many.data(), size, u.data(), 1, drawn.data(), 1, nullptr));
  for (int32_t v : drawn) count[size_t(v)] += 1;
  for (size_t v = 0; v < size_t(N); ++v) {
    const double expected = double(draws) * std::exp(log_prob[v]);
    worst = std::max(worst, std::fabs(count[v] - expected) / std::sqrt(expected + 1));
  }
  law(worst < 5, "levels are drawn as often as they are probable");
  return drawn;
}
void mixtures_of_logistics() {
  const auto single = levels<float>(cr->logistic_mixture_log_prob_f32, cr->logistic_mixture_gradient_f32, cr->logistic_mixture_sample_f32, 1e-5);
  const auto twice = levels<double>(cr->logistic_mixture_log_prob_f64, cr->logistic_mixture_gradient_f64, cr->logistic_mixture_sample_f64, 1e-12);
  size_t differ = 0;
  for (size_t r = 0; r < single.size(); ++r) differ += single[r] != twice[r];
  law(differ < 5, "parameters of either precision draw alike");
}

// Weights in panels of 32 outputs, zeros beyond the last; in panels of gates 16 filters stand beside their 16 gates.
std::vector<float> panels(uint64_t first_block, size_t n_in, size_t n_out, bool gates = false) {
  std::vector<float> W = parameters(first_block, (n_out + (gates ? 15 : 31)) / (gates ? 16 : 32) * n_in * 32);
  for (size_t k = 0; k < W.size(); ++k) {
    const size_t lane = k / (n_in * 32) * 32 + k % 32, unit = gates ? lane / 32 * 16 + lane % 16 : lane;
    W[k] = unit < n_out ? W[k] / 4 : 0;
  }
  return W;
}

void activations_in_time() {
  // A convolution and its gradients are adjoint: <dy, y> = <dx, x> = <dW, W>, and db is the sum of dy.
  const size_t width = 3, dilation = 2, in = 5, out = 7, steps = 20, rows = 2, history = (width - 1) * dilation, all = history + steps;
  const std::vector<float> W1 = panels(1 << 26, width * in, out), x1 = parameters(2 << 26, rows * all * in), dy1 = parameters(3 << 26, rows * steps * out);
  std::vector<double> W(W1.begin(), W1.end()), x(x1.begin(), x1.end()), dy(dy1.begin(), dy1.end()), y(dy.size()), dx(x.size()), dW(W.size()), db(out);
  const chainrule_conv_f64 conv = {{width * in, out, W.data(), 32, width * in * 32, nullptr, nullptr}, width, dilation};
  const chainrule_sequences_f64 from = {x.data(), all * in, in}, to = {y.data(), steps * out, out}, back = {dy.data(), steps * out, out},
                                to_x = {dx.data(), all * in, in};
  ok(cr->causal_conv_f64(&conv, rows, steps, &from, nullptr, CHAINRULE_IDENTITY, &to, nullptr));
  ok(cr->causal_conv_input_gradient_f64(&conv, rows, steps, &back, nullptr, &to_x, nullptr));
  ok(cr->causal_conv_weight_gradient_f64(&conv, rows, steps, &from, &back, dW.data(), db.data(), nullptr));
  auto dot = [](const std::vector<double> &a, const std::vector<double> &b) {
    double sum = 0;
    for (size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
    return sum;
  };
  const double whole = dot(dy, y);
  law(std::fabs(whole - dot(dx, x)) < 1e-11 && std::fabs(whole - dot(dW, W)) < 1e-11, "a convolution's gradients are its adjoints");

  // A WaveNet of two blocks: its generator draws from the conditionals of the parallel scorer, bit for bit.
  const size_t n = 19, skips = 9, values = 6, length = 40, dilations[] = {1, 4};
  const std::vector<float> E = panels(4 << 26, values, n), head = panels(5 << 26, skips, skips), output = panels(6 << 26, skips, values - 1),
                           head_bias = parameters(7 << 26, skips), output_bias = parameters(8 << 26, values - 1), residual = panels(9 << 26, n, n),
                           residual_bias = parameters(10 << 26, n), skip = panels(11 << 26, n, skips), skip_bias = parameters(12 << 26, skips),
                           gate = panels(uint64_t(13) << 26, 2 * n, n, true), gate_bias = panels(uint64_t(14) << 26, 1, n, true);
  chainrule_gated_block_f32 blocks[2];
  for (size_t l = 0; l < 2; ++l)
    blocks[l] = {n, skips, 2, dilations[l], gate.data(), gate_bias.data(), l ? nullptr : residual.data(), l ? nullptr : residual_bias.data(), skip.data(),
                 skip_bias.data()};
  const chainrule_wavenet_f32 net = {2, values, 0, values - 1, blocks, E.data(), nullptr, head.data(), head_bias.data(), output.data(), output_bias.data(), 0, 1};
  const std::vector<double> u = uniforms(uint64_t(15) << 26, rows * length);
  std::vector<int32_t> drawn(rows * length), previous(rows, -1), before(rows * length, -1);
  std::vector<float> state((1 + 4) * rows * n);
  ok(cr->wavenet_sample_f32(&net, rows, length, u.data(), length, previous.data(), state.data(), 0, nullptr, drawn.data(), length, nullptr));

  std::vector<float> h(rows * length * n), padded(rows * (4 + length) * n), y1(h.size()), sum(rows * length * skips), hidden(sum.size()),
      logits(rows * length * (values - 1)), gates(rows * length * gate_bias.size());
  for (size_t k = 0; k < drawn.size(); ++k)
    if (k % length) before[k] = drawn[k - 1];
  ok(cr->embedding_f32(values, n, 0, E.data(), rows * length, before.data(), h.data(), n, nullptr));
  for (size_t l = 0; l < 2; ++l) {
    const size_t room = dilations[l], long_row = (room + length) * n;
    std::fill(padded.begin(), padded.end(), 0.0f);
    for (size_t r = 0; r < rows; ++r) std::copy_n(&h[r * length * n], length * n, &padded[r * long_row + room * n]);
    const chainrule_sequences_f32 input = {padded.data(), long_row, n}, next = {y1.data(), length * n, n}, skipped = {sum.data(), length * skips, skips},
                                  kept = {gates.data(), length * gate_bias.size(), gate_bias.size()};
    ok(cr->gated_block_f32(&blocks[l], rows, length, length, nullptr, &input, nullptr, l ? nullptr : &next, &skipped, l == 0, &kept, nullptr));
    h = y1;
    if (!l) continue;  // the last block: its skip bias has the gradient of the sum itself
    std::vector<float> gW(gate.size()), gb(gate_bias.size()), gS(skip.size()), gs(skips), dskip(sum.size(), 1.0f);
    const chainrule_gated_block_gradient_f32 gradient = {gW.data(), gb.data(), nullptr, nullptr, gS.data(), gs.data()};
    const chainrule_sequences_f32 ones = {dskip.data(), length * skips, skips};
    ok(cr->gated_block_gradient_f32(&blocks[l], rows, length, length, nullptr, &input, &kept, nullptr, &ones, &gradient, nullptr, nullptr, nullptr));
    for (float g : gs) law(g == float(rows * length), "a skip's bias has the sum of its gradients");
  }
  for (float &v : sum) v = v > 0 ? v : 0;
  auto linear = [&](const std::vector<float> &from_, const std::vector<float> &weights, const std::vector<float> &bias, int32_t activation, std::vector<float> &to_) {
    const chainrule_linear_f32 w = {skips, bias.size(), weights.data(), 32, skips * 32, nullptr, nullptr};
    ok(cr->masked_linear_f32(&w, rows * length, from_.data(), skips, nullptr, 0, bias.data(), activation, to_.data(), bias.size(), nullptr));
  };
  linear(sum, head, head_bias, CHAINRULE_RELU, hidden), linear(hidden, output, output_bias, CHAINRULE_IDENTITY, logits);
  const uint32_t first[] = {0, uint32_t(values - 1)};
  std::vector<uint8_t> redrawn(rows * length);
  ok(cr->categorical_sample_f32(rows * length, 1, first, nullptr, logits.data(), values - 1, u.data(), 1, redrawn.data(), 1, nullptr));
  law(std::equal(drawn.begin(), drawn.end(), redrawn.begin()), "WaveNet's generator draws from its scorer's conditionals");

  std::vector<float> dE(E.size()), ones(rows * length * n, 1.0f);
  ok(cr->embedding_gradient_f32(values, n, 0, rows * length, drawn.data(), ones.data(), n, dE.data(), nullptr));
  for (size_t v = 0; v < values; ++v) law(dE[v * 32] == float(std::count(drawn.begin(), drawn.end(), int32_t(v))), "an embedding's gradient counts");
}

// Layers of a Transformer, row by row.
void layers_of_rows() {
  const size_t rows = 300, n = 19;
  const std::vector<float> x1 = parameters(uint64_t(20) << 26, rows * n), gain1 = parameters(uint64_t(21) << 26, n), bias1 = parameters(uint64_t(22) << 26, n),
                           dy1 = parameters(uint64_t(23) << 26, rows * n);
  std::vector<double> x(x1.begin(), x1.end()), gain(gain1.begin(), gain1.end()), bias(bias1.begin(), bias1.end()), dy(dy1.begin(), dy1.end());
  std::vector<double> y(rows * n), statistics(rows * 2), dx(rows * n), dgain(n), dbias(n);
  auto norm = [&] {
    ok(cr->layer_norm_f64(rows, n, x.data(), n, gain.data(), bias.data(), 1e-5, y.data(), n, statistics.data(), nullptr));
    double sum = 0;
    for (size_t k = 0; k < rows * n; ++k) sum += dy[k] * y[k];
    return sum;
  };
  norm();
  for (size_t r = 0; r < rows; ++r) {
    double mean = 0, square = 0;
    for (size_t j = 0; j < n; ++j) {
      const double h = (y[r * n + j] - bias[j]) / gain[j];
      mean += h / n, square += h * h / n;
    }
    law(std::fabs(mean) < 1e-10 && std::fabs(square - 1) < 1e-4, "a normalised row has mean 0 and variance 1");
  }
  ok(cr->layer_norm_gradient_f64(rows, n, x.data(), n, gain.data(), statistics.data(), dy.data(), n, nullptr, 0, dx.data(), n, dgain.data(), dbias.data(),
                                 nullptr));
  auto slope = [&](double &parameter) {
    const double kept = parameter;
    parameter = kept + 1e-6;
    const double up = norm();
    parameter = kept - 1e-6;
    const double down = norm();
    parameter = kept;
    return (up - down) / 2e-6;
  };
  law(std::fabs(slope(x[40]) - dx[40]) < 1e-6 && std::fabs(slope(gain[3]) - dgain[3]) < 1e-5 && std::fabs(slope(bias[3]) - dbias[3]) < 1e-5,
      "layer norm's gradients are its slopes");
  std::vector<float> y1(rows * n), kept1(rows * 2), dx1(dy1), dgain1(n), dbias1(n);
  norm();
  ok(cr->layer_norm_f32(rows, n, x1.data(), n, gain1.data(), bias1.data(), 1e-5, y1.data(), n, kept1.data(), nullptr));
  ok(cr->layer_norm_gradient_f32(rows, n, x1.data(), n, gain1.data(), kept1.data(), dx1.data(), n, nullptr, 0, dx1.data(), n, dgain1.data(), dbias1.data(),
                                 nullptr));
  double worst = 0;
  for (size_t k = 0; k < rows * n; ++k) worst = std::max({worst, std::fabs(y1[k] - y[k]), std::fabs(dx1[k] - dx[k])});
  for (size_t j = 0; j < n; ++j) worst = std::max({worst, std::fabs(dgain1[j] - dgain[j]), std::fabs(dbias1[j] - dbias[j])});
  law(worst < 1e-3, "layer norm of floats is that of doubles");

  // Phi(x) + Phi(-x) = 1 in both forms, which are nearly one.
  std::vector<double> forms[2], minus(x.size()), ones(x.size(), 1.0), slopes(x.size());
  for (int32_t form : {CHAINRULE_GELU_TANH, CHAINRULE_GELU_ERF}) {
    std::transform(x.begin(), x.end(), minus.begin(), [](double v) { return -v; });
    forms[form].resize(x.size());
    ok(cr->gelu_f64(form, x.size(), x.data(), forms[form].data(), nullptr));
    ok(cr->gelu_f64(form, x.size(), minus.data(), minus.data(), nullptr));
    ok(cr->gelu_gradient_f64(form, x.size(), x.data(), ones.data(), slopes.data(), nullptr));
    std::vector<float> single(x1.size()), back(x1.size(), 1.0f);
    ok(cr->gelu_f32(form, x1.size(), x1.data(), single.data(), nullptr));
    ok(cr->gelu_gradient_f32(form, x1.size(), x1.data(), back.data(), back.data(), nullptr));
    for (size_t k = 0; k < x.size(); ++k) {
      law(std::fabs(forms[form][k] - minus[k] - x[k]) < 1e-14, "gelu(x) - gelu(-x) = x");
      law(std::fabs(single[k] - forms[form][k]) < 1e-6 && std::fabs(back[k] - slopes[k]) < 1e-6, "GELU of floats is that of doubles");
    }
  }
  for (size_t k = 0; k < x.size(); ++k) law(std::fabs(forms[0][k] - forms[1][k]) < 1e-3, "GELU's forms are nearly one");

  // A mask depends on places alone: from block 3 on it is the one from element 48 on.
  std::vector<double> all(ones.size()), some(ones.size() - 48);
  ok(cr->dropout_f64(key, 9, 0.25, all.size(), ones.data(), all.data(), nullptr));
  ok(cr->dropout_f64(key, 12, 0.25, some.size(), ones.data(), some.data(), nullptr));
  law(std::equal(some.begin(), some.end(), all.begin() + 48), "dropout goes by places");
  double left = 0;
  std::vector<float> single(all.size(), 1.0f);
  ok(cr->dropout_f32(key, 9, 0.25, single.size(), single.data(), single.data(), nullptr));
  for (size_t k = 0; k < all.size(); ++k) {
    law((all[k] == 0 || all[k] == 1 / 0.75) && (single[k] == 0) == (all[k] == 0), "dropout scales what it leaves");
    left += (all[k] != 0) / double(all.size());
  }
  law(std::fabs(left - 0.75) < 0.03, "dropout leaves 1 - rate");

  // A vocabulary: probabilities sum to one, the expected score is zero, draws are as frequent as they are probable.
  const size_t V = 37, draws = 30000;
  const std::vector<float> row = parameters(uint64_t(24) << 26, V);
  std::vector<float> z1, d1(V * V);
  std::vector<int32_t> target(V), drawn(draws);
  for (size_t v = 0; v < V; ++v) z1.insert(z1.end(), row.begin(), row.end()), target[v] = int32_t(v);
  std::vector<double> z(z1.begin(), z1.end()), d(V * V), log_prob(V), again(V), near(V);
  ok(cr->softmax_log_prob_f64(V, V, z.data(), V, target.data(), log_prob.data(), nullptr));
  ok(cr->softmax_gradient_f64(V, V, z.data(), V, target.data(), nullptr, again.data(), d.data(), V, nullptr));
  law(again == log_prob, "the softmax's gradient scores as the scorer does");
  ok(cr->softmax_log_prob_f32(V, V, z1.data(), V, target.data(), near.data(), nullptr));
  ok(cr->softmax_gradient_f32(V, V, z1.data(), V, target.data(), nullptr, nullptr, d1.data(), V, nullptr));
  double total = 0;
  for (size_t v = 0; v < V; ++v) {
    double mean = 0;
    for (size_t t = 0; t < V; ++t) mean += std::exp(log_prob[t]) * d[t * V + v];
    law(std::fabs(mean) < 1e-14, "the expected score of a softmax is zero");
    law(std::fabs(near[v] - log_prob[v]) < 1e-5 && std::fabs(d1[v * V] - d[v * V]) < 1e-6, "a softmax of floats is that of doubles");
    total += std::exp(log_prob[v]);
  }
  law(std::fabs(total - 1) < 1e-13, "a softmax sums to one");
  const std::vector<double> u = uniforms(uint64_t(25) << 26, draws);
  for (const chainrule_choice &choice : {chainrule_choice{1, 1, 0}, {1, 1, 5}, {1, 0.5, 0}, {0, 1, 0}}) {
    std::vector<double> count(V);
    for (size_t k = 0; k < draws; ++k) {
      int32_t x64, x32;
      ok(cr->softmax_sample_f64(&choice, 1, V, z.data(), V, &u[k], &x64, nullptr));
      ok(cr->softmax_sample_f32(&choice, 1, V, z1.data(), V, &u[k], &x32, nullptr));
      law(x64 == x32, "logits of either precision draw alike");
      count[size_t(x64)] += 1;
    }
    double kept = 0, lost = 1;  // mass of what is drawn, the least likely of it
    size_t values = 0;
    for (size_t v = 0; v < V; ++v)
      if (count[v]) kept += std::exp(log_prob[v]), lost = std::min(lost, std::exp(log_prob[v])), ++values;
    for (size_t v = 0; v < V; ++v) {
      const double expected = draws * std::exp(log_prob[v]) / kept;
      if (count[v]) law(std::fabs(count[v] - expected) < 5 * std::sqrt(expected + 1), "values are drawn as often as they are probable");
      else law(std::exp(log_prob[v]) <= lost, "the most likely values stay");
    }
    if (choice.top_k) law(values == 5, "top-k leaves k values");
    if (choice.top_p < 1) law(kept >= 0.5 && kept - lost < 0.5, "top-p leaves the fewest that reach p");
    if (choice.temperature == 0) law(values == 1, "temperature 0 leaves one value");
  }
}

// The entry of a precision.
template <class T, class F, class G> auto of(F *f32, G *f64) {
  if constexpr (std::is_same_v<T, float>) return f32;
  else return f64;
}
template <class T> std::vector<T> values(uint64_t first_block, size_t n) {
  const std::vector<float> v = parameters(first_block << 26, n);
  return std::vector<T>(v.begin(), v.end());
}
template <class T> struct Decoding;
template <> struct Decoding<float> {
  typedef chainrule_sequences_f32 Sequences;
  typedef chainrule_cache_f32 Cache;
  typedef chainrule_weights_f32 Weights;
  typedef chainrule_linear_f32 Linear;
  typedef chainrule_transformer_block_f32 Block;
  typedef chainrule_transformer_f32 Transformer;
};
template <> struct Decoding<double> {
  typedef chainrule_sequences_f64 Sequences;
  typedef chainrule_cache_f64 Cache;
  typedef chainrule_weights_f64 Weights;
  typedef chainrule_linear_f64 Linear;
  typedef chainrule_transformer_block_f64 Block;
  typedef chainrule_transformer_f64 Transformer;
};

// Queries, keys and values side by side; one step after the other is the whole, and gradients are slopes.
template <class T> void attention(double step, double tolerance) {
  typedef typename Decoding<T>::Sequences Sequences;
  const size_t heads = 4, kept = 2, d = 5, steps = 40, rows = 2, width = (heads + 2 * kept) * d, out = heads * d, capacity = 45;
  const chainrule_attention a = {heads, kept, d, 0.4, 1};
  std::vector<T> qkv = values<T>(30, rows * steps * width), dy = values<T>(31, rows * steps * out), y(dy.size()), sums(rows * heads * steps), gradient(qkv.size()), again(y.size());
  auto part = [&](std::vector<T> &all, size_t channel, size_t t = 0) { return Sequences{&all[t * width + channel], steps * width, width}; };
  auto whole = [&] {
    const Sequences q = part(qkv, 0), k = part(qkv, out), v = part(qkv, out + kept * d), to = {y.data(), steps * out, out};
    ok(of<T>(cr->attention_f32, cr->attention_f64)(&a, rows, steps, steps, nullptr, &q, &k, &v, &to, sums.data(), nullptr));
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += double(dy[i]) * y[i];
    return sum;
  };
  whole();
  {
    const Sequences q = part(qkv, 0), k = part(qkv, out), v = part(qkv, out + kept * d), to = {y.data(), steps * out, out}, back = {dy.data(), steps * out, out},
                    dq = part(gradient, 0), dk = part(gradient, out), dv = part(gradient, out + kept * d);
    ok(of<T>(cr->attention_gradient_f32, cr->attention_gradient_f64)(&a, rows, steps, steps, nullptr, &q, &k, &v, &to, sums.data(), &back, &dq, &dk, &dv, nullptr));
  }
  std::vector<T> keys(rows * kept * 2 * d * 32), kept_values(rows * kept * capacity * 32);
  const typename Decoding<T>::Cache cache = {keys.data(), kept_values.data(), capacity};
  for (uint32_t t = 0; t < steps; ++t) {
    const uint32_t lengths[] = {t, t};
    const Sequences q = part(qkv, 0, t), k = part(qkv, out, t), v = part(qkv, out + kept * d, t), to = {&again[t * out], steps * out, out};
    ok(of<T>(cr->attention_step_f32, cr->attention_step_f64)(&a, rows, 1, lengths, &q, &k, &v, &cache, &to, nullptr));
  }
  law(again == y, "attention over a cache is attention, bit for bit");
  for (size_t i : {size_t(3), 3 * width + out + 1, 2 * width + out + kept * d}) {
    const T before = qkv[i];
    qkv[i] = T(before + step);
    const double up = whole();
    qkv[i] = T(before - step);
    const double down = whole();
    qkv[i] = before;
    law(std::fabs((up - down) / (2 * step) - double(gradient[i])) < tolerance, "attention's gradients are its slopes");
  }
}

// Logits of two sequences, all tokens at once; and token by token.
template <class T> std::vector<T> transformer() {
  typedef typename Decoding<T>::Weights Weights;
  typedef typename Decoding<T>::Cache Cache;
  const size_t width = 20, heads = 4, d = 5, hidden = 33, V = 7, steps = 12, rows = 2, blocks = 2;
  std::vector<std::vector<T>> kept;  // of the matrices
  auto matrix = [&](size_t n_in, size_t n_out) {
    const std::vector<float> W = panels((uint64_t(40) + kept.size()) << 26, n_in, n_out);
    kept.emplace_back(W.begin(), W.end());
    return Weights{n_in, n_out, CHAINRULE_PLAIN, kept.back().data(), nullptr, nullptr};
  };
  const std::vector<T> gain(width, T(1)), bias(width), position = values<T>(60, steps * width);
  std::vector<typename Decoding<T>::Block> layers;
  for (size_t b = 0; b < blocks; ++b) {
    const Weights qkv = matrix(width, 3 * width), projection = matrix(width, width), up = matrix(width, hidden), down = matrix(hidden, width);
    layers.push_back({gain.data(), bias.data(), nullptr, nullptr, gain.data(), bias.data(), qkv, projection, {}, {}, up, down});
  }
  const Weights table = matrix(width, V);
  const typename Decoding<T>::Transformer net = {blocks, width, V, {heads, heads, d, 0.5, 1}, 0, -1 - CHAINRULE_GELU_TANH, 1e-5, table, table, position.data(),
                                                 layers.data(), gain.data(), bias.data()};
  const std::vector<double> u = uniforms(uint64_t(61) << 26, rows * steps);
  std::vector<int32_t> tokens;
  for (double v : u) tokens.push_back(int32_t(v * double(V + 1)) - 1);
  std::vector<T> keys(2 * blocks * rows * heads * d * 32), kept_values(2 * blocks * rows * heads * steps * 32), logits(rows * steps * V), one(rows * V);
  std::vector<Cache> caches;  // of all at once, then of token by token
  for (size_t b = 0; b < 2 * blocks; ++b) caches.push_back({&keys[b * rows * heads * d * 32], &kept_values[b * rows * heads * steps * 32], steps});
  uint32_t lengths[] = {0, 0};
  const uint32_t last[] = {0, 0};
  auto step = of<T>(cr->transformer_step_f32, cr->transformer_step_f64);
  ok(step(&net, rows, steps, tokens.data(), steps, lengths, nullptr, caches.data(), nullptr, nullptr, logits.data(), V, nullptr));
  for (size_t t = 0; t < steps; ++t, ++lengths[0], ++lengths[1]) {
    ok(step(&net, rows, 1, &tokens[t], steps, lengths, last, &caches[blocks], nullptr, nullptr, one.data(), V, nullptr));
    for (size_t r = 0; r < rows; ++r)
      law(std::equal(&one[r * V], &one[r * V] + V, &logits[(r * steps + t) * V]), "a Transformer's logits token by token are those of all at once, bit for bit");
  }
  law(std::equal(keys.begin(), keys.begin() + long(keys.size() / 2), keys.begin() + long(keys.size() / 2)), "and it keeps the same keys");

  // Packed weights are a plain matrix's panels.
  const typename Decoding<T>::Linear plain = {width, V, kept.back().data(), 32, width * 32, nullptr, nullptr, nullptr, 0, 0};
  std::vector<T> y(steps * V), product(steps * V);
  ok(of<T>(cr->packed_linear_f32, cr->packed_linear_f64)(&table, steps, position.data(), width, nullptr, 0, y.data(), V, nullptr));
  ok(of<T>(cr->masked_linear_f32, cr->masked_linear_f64)(&plain, steps, position.data(), width, nullptr, 0, nullptr, CHAINRULE_IDENTITY, product.data(), V, nullptr));
  law(y == product, "a product with packed weights is the product, bit for bit");
  return logits;
}
void decoding() {
  attention<float>(1e-2, 1e-2), attention<double>(1e-5, 1e-7);
  const auto single = transformer<float>();
  const auto twice = transformer<double>();
  for (size_t i = 0; i < single.size(); ++i) law(std::fabs(single[i] - twice[i]) < 1e-4, "a Transformer of floats is that of doubles");
}

}  // namespace

int main() {
  cr = chainrule_get_api(CHAINRULE_ABI_VERSION);
  if (!cr) {
    std::fprintf(stderr, "%s\n", chainrule_load_error());
    return 1;
  }
  law(!chainrule_get_api(CHAINRULE_ABI_VERSION + 1), "another ABI version is refused");
  law(cr->abi_version == CHAINRULE_ABI_VERSION && cr->struct_size == sizeof(chainrule_api), "header and library agree");
  cr->set_num_threads(2);
  law(cr->get_num_threads() <= 2, "set_num_threads");
  densities();
  conditionals();
  mixtures_of_logistics();
  nade_over_categories();
  masked();
  activations_in_time();
  layers_of_rows();
  decoding();
  functions();
  training();
  std::printf("chainrule %s, %s: every law holds\n", cr->version, cr->isa);
}
