"""WaveNet straight from the equations, in float64, the whole network anew for every question. Slow and obvious.

Inputs are rows of T codes below V; at time t the network sees the codes before t:

    h_0[t]     = E[x_{t-1}], zero at t = 0; features at negative times are zero in every layer
    z          = sum_k h_l[t - (K - 1 - k) d_l] W_l[k] + b_l (+ context U_l)      tap K - 1 is the present
    u          = tanh(z_f) sigmoid(z_g)                       f: the first C columns of z, g: the last C
    h_{l+1}    = h_l + u R_l + r_l                            not in the last layer
    skip       = sum_l u Q_l + q_l
    logits     = relu(relu(skip) H1 + c1) H2 + c2,            log p(x_t | x_<t) = (log softmax(logits[t]))[x_t]

`p` is a dict: "embedding" (V, C); lists by layer "filter_gate" (K, C, 2 C), "filter_gate_bias" (2 C), "skip" (C, S),
"skip_bias" (S), and "residual" (C, C), "residual_bias" (C) for all but the last; "head1" (S, S), "head1_bias",
"head2" (S, V), "head2_bias"; with a context of n numbers a row, "context", by layer (n, 2 C).
"""

import numpy as np


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


def relu(a):
    return np.maximum(a, 0)


def padded(h, n):
    """(rows, T, C) with n zero rows in front of every row's time."""
    return np.concatenate([np.zeros((len(h), n, h.shape[2])), h], axis=1)


# ---- A causal convolution


def causal_conv(x, W, b, dilation):
    """(rows, H + T, n_in) to (rows, T, n_out), H = (K - 1) dilation: y[t] = sum_k x[t + k dilation] W[k] + b."""
    x, W = np.asarray(x, float), np.asarray(W, float)
    K, T = len(W), x.shape[1] - (len(W) - 1) * dilation
    y = sum(x[:, k * dilation : k * dilation + T] @ W[k] for k in range(K))
    return y if b is None else y + np.asarray(b, float)


def causal_conv_pullback(dy, x, W, dilation):
    """dx, dW, db."""
    dy, x, W = (np.asarray(a, float) for a in (dy, x, W))
    T = dy.shape[1]
    dx, dW = np.zeros_like(x), np.zeros_like(W)
    for k in range(len(W)):
        seen = slice(k * dilation, k * dilation + T)
        dx[:, seen] += dy @ W[k].T
        dW[k] = np.einsum("rti,rto->io", x[:, seen], dy)
    return dx, dW, dy.sum((0, 1))


# ---- A gate


def gate(z):
    """tanh of the first half of the columns times sigmoid of the last."""
    filters, gates = np.split(np.asarray(z, float), 2, axis=-1)
    return np.tanh(filters) * sigmoid(gates)


def gate_pullback(du, z):
    """dz."""
    filters, gates = np.split(np.asarray(z, float), 2, axis=-1)
    f, g = np.tanh(filters), sigmoid(gates)
    return np.concatenate([du * g * (1 - f * f), du * f * g * (1 - g)], axis=-1)


# ---- A layer

LAYER = ("filter_gate", "filter_gate_bias", "residual", "residual_bias", "skip", "skip_bias", "context")


def layer_of(p, l):
    """The parameters of layer l, as float64; what it does not have is missing."""
    return {name: np.asarray(p[name][l], float) for name in LAYER if l < len(p.get(name, ()))}


def gated_block(h, q, dilation, context=None):
    """h (rows, H + T, C) to the next h (rows, T, C), None after the last layer, and what is added to skip."""
    z = causal_conv(h, q["filter_gate"], q["filter_gate_bias"], dilation)
    if context is not None:
        z = z + (np.asarray(context, float) @ q["context"])[:, None]
    u = gate(z)
    skip = u @ q["skip"] + q["skip_bias"]
    if "residual" not in q:
        return None, skip
    return h[:, h.shape[1] - z.shape[1] :] + u @ q["residual"] + q["residual_bias"], skip


def gated_block_pullback(dnext, dskip, h, q, dilation, context=None):
    """dh (rows, H + T, C), and the gradient of every parameter of q."""
    z = causal_conv(h, q["filter_gate"], q["filter_gate_bias"], dilation)
    if context is not None:
        z = z + (np.asarray(context, float) @ q["context"])[:, None]
    u = gate(z)
    dq = {"skip": np.einsum("rti,rto->io", u, dskip), "skip_bias": dskip.sum((0, 1))}
    du = dskip @ q["skip"].T
    if "residual" in q:
        dq |= {"residual": np.einsum("rti,rto->io", u, dnext), "residual_bias": dnext.sum((0, 1))}
        du = du + dnext @ q["residual"].T
    dz = gate_pullback(du, z)
    dh, dq["filter_gate"], dq["filter_gate_bias"] = causal_conv_pullback(dz, h, q["filter_gate"], dilation)
    if "residual" in q:
        dh[:, dh.shape[1] - z.shape[1] :] += dnext
    if context is not None:
        dq["context"] = np.asarray(context, float).T @ dz.sum(1)
    return dh, dq


# ---- The network


def features(p, x):
    """h_0 (rows, T, C)."""
    x = np.asarray(x)
    h = np.zeros((*x.shape, p["embedding"].shape[1]))
    h[:, 1:] = np.asarray(p["embedding"], float)[x[:, :-1]]
    return h


def head(p, skip):
    H1, c1, H2, c2 = (np.asarray(p[name], float) for name in ("head1", "head1_bias", "head2", "head2_bias"))
    return relu(relu(skip) @ H1 + c1) @ H2 + c2


def network(p, dilations, x, context=None):
    """The padded input of every layer, and the sum of skips."""
    h, inputs, skip = features(p, x), [], 0.0
    for l, d in enumerate(dilations):
        q = layer_of(p, l)
        inputs.append(padded(h, (len(q["filter_gate"]) - 1) * d))
        h, more = gated_block(inputs[-1], q, d, context)
        skip = skip + more
    return inputs, skip


def logits(p, dilations, x, context=None):
    """(rows, T, V): those at t do not depend on x_t and what follows."""
    return head(p, network(p, dilations, x, context)[1])


def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


def terms(p, dilations, x, context=None):
    """log p(x_t | x_<t), (rows, T)."""
    log_p = log_softmax(logits(p, dilations, x, context))
    return np.take_along_axis(log_p, np.asarray(x, int)[..., None], axis=-1)[..., 0]


def log_prob(p, dilations, x, context=None):
    """Of each row."""
    return terms(p, dilations, x, context).sum(1)


def gradient(p, dilations, x, context=None, weight=None):
    """Gradient of -sum_r weight_r log p(x_r), weight 1 / rows unless given, as a dict like p."""
    x = np.asarray(x, int)
    weight = np.full(len(x), 1 / len(x)) if weight is None else np.asarray(weight, float)
    H1, c1, H2, _ = (np.asarray(p[name], float) for name in ("head1", "head1_bias", "head2", "head2_bias"))
    inputs, skip = network(p, dilations, x, context)
    a = relu(skip)
    b = relu(a @ H1 + c1)
    dz = np.exp(log_softmax(head(p, skip)))
    dz[(*np.indices(x.shape), x)] -= 1
    dz *= weight[:, None, None]
    db = dz @ H2.T * (b > 0)
    dskip = db @ H1.T * (a > 0)
    out = {
        "head2": np.einsum("rti,rto->io", b, dz),
        "head2_bias": dz.sum((0, 1)),
        "head1": np.einsum("rti,rto->io", a, db),
        "head1_bias": db.sum((0, 1)),
    }
    out |= {name: [None] * len(p[name]) for name in LAYER if name in p}
    dh = None  # the last layer has no next
    for l in reversed(range(len(dilations))):
        dh, dq = gated_block_pullback(dh, dskip, inputs[l], layer_of(p, l), dilations[l], context)
        dh = dh[:, dh.shape[1] - x.shape[1] :]
        for name, value in dq.items():
            out[name][l] = value
    out["embedding"] = np.zeros(np.shape(p["embedding"]))
    np.add.at(out["embedding"], x[:, :-1], dh[:, 1:])
    return out


# ---- Generation


def draw(z, u):
    """By row, the smallest v with u s < e_0 + ... + e_v, e = exp(z - max z), s their sum."""
    e = np.exp(np.asarray(z, float) - np.max(z, axis=-1, keepdims=True))
    upto = np.cumsum(e, axis=-1)
    return np.minimum((np.asarray(u)[..., None] * upto[..., -1:] >= upto).sum(-1), z.shape[-1] - 1)


def sample(p, dilations, u, context=None):
    """Codes (rows, T) from uniforms (rows, T), the whole network anew for every time; and the logits they came from."""
    x = np.zeros(u.shape, int)
    for t in range(u.shape[1]):
        x[:, t] = draw(logits(p, dilations, x[:, : t + 1], context)[:, t], u[:, t])
    return x, logits(p, dilations, x, context)


# ---- Problems


def random_parameters(rng, dilations, n_values, channels, skip_channels, kernel_size=2, n_context=0):
    """Weights of such a size that neither gates nor relus are saturated."""
    V, C, S, L = n_values, channels, skip_channels, len(dilations)

    def normal(*shape, fan_in=1):
        return rng.normal(0, fan_in**-0.5, shape)

    p = {
        "embedding": normal(V, C),
        "filter_gate": [normal(kernel_size, C, 2 * C, fan_in=kernel_size * C) for _ in range(L)],
        "filter_gate_bias": [normal(2 * C, fan_in=9) for _ in range(L)],
        "residual": [normal(C, C, fan_in=C) for _ in range(L - 1)],
        "residual_bias": [normal(C, fan_in=9) for _ in range(L - 1)],
        "skip": [normal(C, S, fan_in=C) for _ in range(L)],
        "skip_bias": [normal(S, fan_in=9) for _ in range(L)],
        "head1": normal(S, S, fan_in=S),
        "head1_bias": normal(S, fan_in=9),
        "head2": normal(S, V, fan_in=S),
        "head2_bias": normal(V, fan_in=9),
    }
    if n_context:
        p["context"] = [normal(n_context, 2 * C, fan_in=n_context) for _ in range(L)]
    return p
