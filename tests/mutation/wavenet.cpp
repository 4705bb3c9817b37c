// Activations in time: convolutions, gated blocks, embeddings, and WaveNet's generator.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(causal_conv);
KERNEL(causal_conv_input_gradient);
KERNEL(causal_conv_weight_gradient);
KERNEL(gated_block);
KERNEL(gated_block_gradient);
KERNEL(embedding);
KERNEL(embedding_gradient);
KERNEL(wavenet_sample);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

void conv(size_t width, size_t d, size_t in, size_t out, size_t steps, size_t rows) {
  const size_t history = (width - 1) * d, all = history + steps;
  const Panels W(width * in, out, 0.5);
  const Floats x = floats(rows * all * in, 2), dy = floats(rows * steps * out, 2), b = floats(out, 2), addend = floats(rows * steps * in, 2);
  Floats y(dy.size()), dx(x.size()), dW(W.W.size()), db(out);
  Doubles want(y.size()), want_dx(x.size()), want_dW(dW.size()), want_db(out);
  const chainrule_conv_f32 c = {{width * in, out, W.W.data(), 32, width * in * 32, nullptr, nullptr, nullptr, 0, 0}, width, d};
  const chainrule_sequences_f32 from = {const_cast<float *>(x.data()), all * in, in}, to = {y.data(), steps * out, out},
                                back = {const_cast<float *>(dy.data()), steps * out, out}, to_x = {dx.data(), all * in, in},
                                added = {const_cast<float *>(addend.data()), steps * in, in};
  causal_conv_f32(&c, rows, steps, &from, b.data(), CHAINRULE_IDENTITY, &to, nullptr);
  causal_conv_input_gradient_f32(&c, rows, steps, &back, &added, &to_x, nullptr);
  causal_conv_weight_gradient_f32(&c, rows, steps, &from, &back, dW.data(), db.data(), nullptr);
  for (size_t r = 0; r < rows; ++r)
    for (size_t t = 0; t < steps; ++t) {
      for (size_t i = 0; i < in; ++i) want_dx[(r * all + history + t) * in + i] += addend[(r * steps + t) * in + i];
      for (size_t o = 0; o < out; ++o) {
        const size_t at = (r * steps + t) * out + o;
        want[at] = b[o], want_db[o] += dy[at];
        for (size_t k = 0; k < width * in; ++k) {
          const size_t of_x = (r * all + t + k / in * d) * in + k % in;
          want[at] += x[of_x] * W(k, o), want_dx[of_x] += dy[at] * W(k, o), want_dW[W.at(k, o)] += double(x[of_x]) * dy[at];
        }
      }
    }
  compare("y", y, want), compare("dx", dx, want_dx), compare("dW", dW, want_dW), compare("db", db, want_db);
  add_bits(y), add_bits(dx), add_bits(dW), add_bits(db);
}

// A gated block: its parameters, and its equations for one step of x (with what is before it, `ld` apart).
struct Gates {
  size_t n, skips, width, d;
  Panels W, b, R, S;
  Floats residual_bias, skip_bias;
  Gates(size_t channels, size_t n_skip, size_t taps, size_t dilation)
      : n(channels), skips(n_skip), width(taps), d(dilation), W(taps * n, 2 * n, 1, n), b(1, 2 * n, 1, n), R(n, n, 1), S(n, n_skip, 1),
        residual_bias(floats(n, 1)), skip_bias(floats(n_skip, 1)) {}
  chainrule_gated_block_f32 view() const {
    return {n, skips, width, d, W.W.data(), b.W.data(), R.W.data(), residual_bias.data(), S.W.data(), skip_bias.data()};
  }
  size_t gates() const { return b.W.size(); }
  // f and g [2 n]; u is their product.
  template <class F> Doubles halves(F &&x, const float *context) const {
    Doubles fg(2 * n);
    for (size_t o = 0; o < 2 * n; ++o) {
      double z = b(0, o) + context[b.at(0, o)];
      for (size_t k = 0; k < width * n; ++k) z += x(k / n, k % n) * W(k, o);
      fg[o] = o < n ? tanh(z) : sigmoid(z);
    }
    return fg;
  }
};

void gated_block(size_t n, size_t skips, size_t width, size_t d, size_t steps, size_t skip_steps, size_t rows, size_t hop) {
  const Gates q(n, skips, width, d);
  const auto view = q.view();
  const size_t history = (width - 1) * d, all = history + steps, gates = q.gates(), low = steps - skip_steps, phase = 2, frames = (steps - 1 + phase) / hop + 1;
  const Floats x = floats(rows * all * n, 2), a = floats(rows * frames * gates, 1), before = floats(rows * skip_steps * skips, 2),
               dy = floats(rows * steps * n, 2), dskip = floats(rows * skip_steps * skips, 2);
  Floats y(rows * steps * n), skip = before, saved(rows * steps * gates), dx(x.size()), dW(q.W.W.size()), db(gates), dR(q.R.W.size()), dr(n), dS(q.S.W.size()),
      ds(skips), da(a.size());
  Doubles want_y(y.size()), want_skip(skip.begin(), skip.end()), want_dx(x.size()), want_dW(dW.size()), want_db(gates), want_dR(dR.size()), want_dr(n),
      want_dS(dS.size()), want_ds(skips), want_da(da.size());
  Floats padded = a;  // zero where a panel has no gate
  for (size_t k = 0; k < a.size(); ++k)
    if (k % gates / 32 * 16 + k % 16 >= n) padded[k] = 0;
  std::vector<uint32_t> start(rows);
  for (size_t r = 0; r < rows; ++r) start[r] = uint32_t(r * 5);
  const chainrule_sequences_f32 from = {const_cast<float *>(x.data()), all * n, n}, to = {y.data(), steps * n, n}, to_skip = {skip.data(), skip_steps * skips, skips},
                                to_gates = {saved.data(), steps * gates, gates}, back = {const_cast<float *>(dy.data()), steps * n, n},
                                back_skip = {const_cast<float *>(dskip.data()), skip_steps * skips, skips}, to_x = {dx.data(), all * n, n};
  const chainrule_frames_f32 context = {padded.data(), frames * gates, gates, hop, phase}, to_context = {da.data(), frames * gates, gates, hop, phase};
  const chainrule_gated_block_gradient_f32 gradient = {dW.data(), db.data(), dR.data(), dr.data(), dS.data(), ds.data()};
  gated_block_f32(&view, rows, steps, skip_steps, start.data(), &from, &context, &to, &to_skip, 0, &to_gates, nullptr);
  add_bits(y), add_bits(skip), add_bits(saved);
  gated_block_gradient_f32(&view, rows, steps, skip_steps, start.data(), &from, &to_gates, &back, &back_skip, &gradient, &to_context, &to_x, nullptr);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t t = start[r]; t < steps; ++t) {
      auto value = [&](size_t k, size_t i) { return double(x[(r * all + t + k * d) * n + i]); };
      const size_t frame = (r * frames + (t + phase) / hop) * gates;
      const Doubles fg = q.halves(value, &padded[frame]);
      Doubles du(n);
      for (size_t o = 0; o < n; ++o) {
        const double dyo = dy[(r * steps + t) * n + o];
        double sum = value(width - 1, o) + q.residual_bias[o];
        for (size_t i = 0; i < n; ++i) {
          const double u = fg[i] * fg[n + i];
          sum += u * q.R(i, o), du[i] += dyo * q.R(i, o), want_dR[q.R.at(i, o)] += u * dyo;
        }
        want_y[(r * steps + t) * n + o] = sum, want_dr[o] += dyo, want_dx[(r * all + history + t) * n + o] += dyo;
      }
      for (size_t o = 0; t >= low && o < skips; ++o) {
        const size_t at = (r * skip_steps + t - low) * skips + o;
        want_skip[at] += q.skip_bias[o], want_ds[o] += dskip[at];
        for (size_t i = 0; i < n; ++i) {
          const double u = fg[i] * fg[n + i];
          want_skip[at] += u * q.S(i, o), du[i] += dskip[at] * q.S(i, o), want_dS[q.S.at(i, o)] += u * dskip[at];
        }
      }
      for (size_t o = 0; o < 2 * n; ++o) {
        const double f = fg[o % n], g = fg[n + o % n], dz = du[o % n] * (o < n ? g * (1 - f * f) : f * g * (1 - g));
        want_db[q.b.at(0, o)] += dz, want_da[frame + q.b.at(0, o)] += dz;
        for (size_t k = 0; k < width * n; ++k)
          want_dW[q.W.at(k, o)] += value(k / n, k % n) * dz, want_dx[(r * all + t + k / n * d) * n + k % n] += dz * q.W(k, o);
      }
    }
    if (start[r])  // what is as early as outputs that do not exist has no gradient
      for (size_t k = 0; k < (start[r] + history) * n; ++k) want_dx[r * all * n + k] = 0;
  }
  compare("y", y, want_y), compare("skip", skip, want_skip), compare("dx", dx, want_dx), compare("dW", dW, want_dW), compare("db", db, want_db);
  compare("dR", dR, want_dR), compare("dr", dr, want_dr), compare("dS", dS, want_dS), compare("ds", ds, want_ds), compare("dframes", da, want_da);
  for (const Floats *part : {&dx, &dW, &db, &dR, &dr, &dS, &ds, &da}) add_bits(*part);
}

void embedding(size_t n_values, size_t n_out, size_t rows, bool turned) {
  const Panels E(turned ? n_out : n_values, turned ? n_values : n_out, 2);
  const Floats dy = floats(rows * n_out, 2);
  std::vector<int32_t> index(rows);
  for (int32_t &i : index) i = int32_t(uniform() * double(n_values + 1)) - 1;
  Floats y(rows * n_out), dE(E.W.size());
  Doubles want(y.size()), want_dE(dE.size());
  embedding_f32(n_values, n_out, turned, E.W.data(), rows, index.data(), y.data(), n_out, nullptr);
  embedding_gradient_f32(n_values, n_out, turned, rows, index.data(), dy.data(), n_out, dE.data(), nullptr);
  for (size_t k = 0; k < y.size(); ++k)
    if (index[k / n_out] >= 0) {
      const size_t v = size_t(index[k / n_out]), j = k % n_out;
      want[k] = turned ? E(j, v) : E(v, j), want_dE[turned ? E.at(j, v) : E.at(v, j)] += dy[k];
    }
  compare("y", y, want), compare("dE", dE, want_dE);
  add_bits(y), add_bits(dE);
}

// Every stream has a context. The features of every layer stay in the rings; draws are compared given what was drawn before. Codes by their logits, or levels
// by a mixture of K logistics, the first of them narrower than the floor.
void wavenet_sample(size_t n, size_t skips, size_t width, size_t values, size_t rows, size_t steps, const std::vector<size_t> &dilations, size_t K = 0) {
  const size_t L = dilations.size(), P = K ? 3 * K : values - 1;
  const double floor = -3, temperature = K ? 0.5 : 1, M = double(values - 1) / 2;
  std::vector<Gates> blocks;
  std::vector<chainrule_gated_block_f32> views;
  size_t history = 0;
  for (size_t d : dilations) blocks.emplace_back(n, skips, width, d), history += (width - 1) * d;
  for (const Gates &block : blocks) views.push_back(block.view());
  views[L - 1].residual = views[L - 1].residual_bias = nullptr;
  const Panels E(K ? 1 : values, n, 2), H(skips, skips, 1), O(skips, P, K ? 0.5 : 2);
  Floats head_bias = floats(skips, 1), output_bias = floats(P, 1);
  if (K) output_bias[2 * K] = -9;
  const Floats input_bias = floats(K ? n : 0, 1);
  const chainrule_wavenet_f32 net = {L, values, K, P, views.data(), E.W.data(), K ? input_bias.data() : nullptr, H.W.data(), head_bias.data(), O.W.data(),
                                     output_bias.data(), floor, temperature};
  Doubles u(rows * steps);
  for (double &v : u) v = uniform();
  std::vector<int32_t> previous(rows, -1), x(rows * steps);
  Floats state(history * rows * n);
  Doubles want(state.size());
  // A context of each stream, zero where a panel has no gate.
  const size_t gates = blocks[0].gates();
  std::vector<Floats> contexts;
  std::vector<chainrule_frames_f32> frames;
  for (size_t l = 0; l < L; ++l) {
    contexts.push_back(floats(rows * gates, 1));
    for (size_t k = 0; k < rows * gates; ++k)
      if (k % gates / 32 * 16 + k % 16 >= n) contexts[l][k] = 0;
  }
  for (Floats &a : contexts) frames.push_back({a.data(), gates, gates, 1000, 0});
  const size_t cut = 13;
  wavenet_sample_f32(&net, rows, cut, u.data(), steps, previous.data(), state.data(), 0, frames.data(), x.data(), steps, nullptr);
  {  // another stream in between: nothing may be left over in the workspace
    Floats other(state.size());
    std::vector<int32_t> drawn(rows);
    wavenet_sample_f32(&net, rows, 1, u.data(), steps, previous.data(), other.data(), 0, frames.data(), drawn.data(), 1, nullptr);
  }
  for (size_t r = 0; r < rows; ++r) previous[r] = x[r * steps + cut - 1];
  wavenet_sample_f32(&net, rows, steps - cut, u.data() + cut, steps, previous.data(), state.data(), cut, frames.data(), x.data() + cut, steps, nullptr);
  for (size_t r = 0; r < rows; ++r) {
    std::vector<Doubles> h(L, Doubles(steps * n));
    for (size_t t = 0; t < steps; ++t) {
      for (size_t i = 0; t && i < n; ++i) {
        const int32_t last = x[r * steps + t - 1];
        h[0][t * n + i] = K ? (last - M) / M * E(0, i) + input_bias[i] : E(size_t(last), i);
      }
      Doubles skip(skips), hidden(head_bias.begin(), head_bias.end()), z(output_bias.begin(), output_bias.end());
      for (size_t l = 0, ring = 0; l < L; ++l) {
        const Gates &q = blocks[l];
        auto value = [&](size_t k, size_t i) {
          const size_t back = (width - 1 - k) * q.d;
          return back <= t ? h[l][(t - back) * n + i] : 0.0;
        };
        const Doubles fg = q.halves(value, &contexts[l][r * gates]);
        for (size_t o = 0; o < skips; ++o) {
          skip[o] += q.skip_bias[o];
          for (size_t i = 0; i < n; ++i) skip[o] += fg[i] * fg[n + i] * q.S(i, o);
        }
        for (size_t o = 0; l + 1 < L && o < n; ++o) {
          h[l + 1][t * n + o] = h[l][t * n + o] + q.residual_bias[o];
          for (size_t i = 0; i < n; ++i) h[l + 1][t * n + o] += fg[i] * fg[n + i] * q.R(i, o);
        }
        const size_t size = (width - 1) * q.d;
        for (size_t i = 0; i < n; ++i) want[((ring + t % size) * rows + r) * n + i] = h[l][t * n + i];
        ring += size;
      }
      for (size_t o = 0; o < skips; ++o)
        for (size_t i = 0; i < skips; ++i) hidden[o] += fmax(skip[i], 0) * H(i, o);
      for (size_t o = 0; o < P; ++o)
        for (size_t i = 0; i < skips; ++i) z[o] += fmax(hidden[i], 0) * O(i, o);
      const size_t drawn = size_t(x[r * steps + t]);
      if (drawn >= values) {
        wrong = true;
        return;
      }
      double total = K ? 0 : 1, below = 0, upto = 0;  // the masses of the values before the drawn one, and with it
      for (size_t k = 0; k < (K ? K : P); ++k) total += exp(z[k] / temperature);
      for (size_t k = 0; k < K; ++k) {
        const double s = exp(fmax(z[2 * K + k] + log(temperature), floor)), share = exp(z[k] / temperature) / total;
        auto to_edge = [&](double v) { return share * sigmoid(((v + 0.5 - M) / M - z[K + k]) / s); };
        below += drawn ? to_edge(double(drawn) - 1) : 0, upto += drawn + 1 < values ? to_edge(double(drawn)) : share;
      }
      for (size_t v = 0; !K && v <= drawn; ++v) below = upto, upto += (v ? exp(z[v - 1]) : 1) / total;
      const double at = u[r * steps + t];
      if (at < below - 1e-4 || at > upto + 1e-4) wrong = true;
    }
  }
  compare("state", state, want);
  add_bits(x), add_bits(state);
}

}  // namespace

void check_wavenet() {
  if (causal_conv_f32) conv(3, 5, 180, 37, 60, 2), conv(2, 1, 9, 33, 300, 1);
  if (gated_block_f32) gated_block(17, 35, 3, 4, 60, 40, 2, 7), gated_block(16, 5, 2, 1, 1100, 1050, 1, 300);
  if (embedding_f32) embedding(19, 37, 600, false), embedding(37, 19, 600, true);
  // One stream, whose products go ahead or not, and several; sums beyond a chunk.
  if (wavenet_sample_f32) {
    wavenet_sample(17, 35, 3, 19, 1, 60, {8, 4, 1}), wavenet_sample(16, 33, 2, 5, 7, 40, {1, 2, 5}), wavenet_sample(90, 9, 3, 3, 1, 20, {2, 3});
    wavenet_sample(17, 35, 2, 300, 5, 30, {1, 4}, 3);
  }
}
