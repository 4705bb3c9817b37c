"""A decoder-only Transformer straight from the equations, in float64, the whole network anew for every question.

The network sees a window of tokens, -1 for none; h_0[t] = E[token_t] + P[t], with E[-1] = 0. A block has two sublayers
f, attention and a perceptron, each with its norm:

    pre:  h + f(LN(h)), and a last norm after the blocks        post: LN(h + f(h))

    LN(x)        = (x - mean) / sqrt(variance + 1e-5) g + b            over the channels
    attention(x) = concat_h(softmax(q_h k_j' / sqrt(s)) v_j) W_p + b_p,  q, k, v: columns of x W + b, s: a head's size
    mlp(x)       = g(x W_u + b_u) W_d + b_d
    logits[t]    = h[t] O'                                              O: the output table, E where tied

Head h of H looks at the keys and values of head h // (H / K) of K. Step t sees steps up to t.

A sequence longer than the window length T is scored in windows that start anew: step t of a window that begins at s has
the token x_{s+t-1}, and -1 stands before the first.

`p` is a dict: "token" (V, C), "position" (T, C), "output" (V, C); lists by block "norm" (g, b), "qkv" (W, b),
"projection", "mlp_norm", "up", "down"; "last_norm" (g, b), of a network with norm="pre".
"""

import numpy as np

EPSILON = 1e-5


def layer_norm(x, g, b):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + EPSILON) * g + b


def erf(x):
    from math import erf as one

    return np.vectorize(one)(x)


def gelu(x):
    """The tanh form, as GPT-2 has it."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def relu(x):
    return np.maximum(x, 0)


ACTIVATIONS = {"gelu": gelu, "gelu_exact": gelu_exact, "relu": relu}


def attention(q, k, v, n_heads, n_kv_heads, causal=True, lengths=None):
    """(rows, queries, H s), (rows, keys, K s) twice, to (rows, queries, H s); a query without keys gets zeros."""
    rows, queries, keys, size = len(q), q.shape[1], k.shape[1], q.shape[2] // n_heads
    y = np.zeros(q.shape)
    for r in range(rows):
        length = keys if lengths is None else int(lengths[r])
        for h in range(n_heads):
            own, other = slice(h * size, (h + 1) * size), h // (n_heads // n_kv_heads)
            shared = slice(other * size, (other + 1) * size)
            for i in range(queries):
                seen = min(length, keys - queries + i + 1) if causal else length
                if seen:
                    scores = k[r, :seen, shared] @ q[r, i, own] / np.sqrt(size)
                    weights = np.exp(scores - scores.max())
                    y[r, i, own] = weights / weights.sum() @ v[r, :seen, shared]
    return y


def network(p, tokens, n_heads, n_kv_heads=None, norm="pre", activation="gelu"):
    """Logits (rows, steps, V) of one window of tokens (rows, steps)."""
    K = n_kv_heads or n_heads
    table = np.concatenate([p["token"], np.zeros((1, p["token"].shape[1]))])  # -1 is the last row
    h = table[tokens] + p["position"][: tokens.shape[1]]
    size = h.shape[2] // n_heads
    for l in range(len(p["qkv"])):

        def attend(x, l=l):
            W, b = p["qkv"][l]
            q, k, v = np.split(x @ W + b, [n_heads * size, (n_heads + K) * size], axis=-1)
            W, b = p["projection"][l]
            return attention(q, k, v, n_heads, K) @ W + b

        def mlp(x, l=l):
            (W, b), (D, d) = p["up"][l], p["down"][l]
            return ACTIVATIONS[activation](x @ W + b) @ D + d

        for f, scale in ((attend, p["norm"][l]), (mlp, p["mlp_norm"][l])):
            h = h + f(layer_norm(h, *scale)) if norm == "pre" else layer_norm(h + f(h), *scale)
    if norm == "pre":
        h = layer_norm(h, *p["last_norm"])
    return h @ p["output"].T


def before(x):
    """What the network sees at each step of a sequence: -1, x_0, ..., x_{n-2}."""
    return np.concatenate([np.full((len(x), 1), -1), x[:, :-1]], axis=1)


def logits(p, x, **options):
    """(rows, n, V) of equally long sequences, window by window: those at t do not depend on x_t and what follows."""
    seen, T = before(np.asarray(x)), len(p["position"])
    return np.concatenate([network(p, seen[:, s : s + T], **options) for s in range(0, seen.shape[1], T)], axis=1)


def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


def terms(p, x, **options):
    """log p(x_t | what its window shows before t), (rows, n)."""
    return np.take_along_axis(log_softmax(logits(p, x, **options)), np.asarray(x, int)[..., None], axis=-1)[..., 0]


def choose(z, u, temperature=1.0, top_k=0, top_p=1.0):
    """A value by u from logits (V,), of the most likely ones where that is asked; of equals the lower index stays."""
    order = np.argsort(-z, kind="stable")
    if temperature == 0:
        return order[0]
    order = order[: top_k or len(z)]
    mass = np.exp((z[order] - z[order[0]]) / temperature)
    mass /= mass.sum()
    order = order[: 1 + np.searchsorted(np.cumsum(mass), top_p)]  # the one that crosses included
    kept = np.sort(order)
    upto = np.cumsum(np.exp((z[kept] - z.max()) / temperature))
    return kept[min(np.searchsorted(upto, u * upto[-1], side="right"), len(kept) - 1)]


def random_parameters(rng, n_layers, n_heads, width, context_length, n_values, n_hidden=None, n_kv_heads=None):
    """Weights of such a size that neither softmaxes nor activations are saturated."""
    F, size = n_hidden or 4 * width, width // n_heads
    columns = (n_heads + 2 * (n_kv_heads or n_heads)) * size

    def linear(n_in, n_out):
        return rng.normal(0, n_in**-0.5, (n_in, n_out)), rng.normal(0, 0.3, n_out)

    def norm():
        return rng.normal(1, 0.3, width), rng.normal(0, 0.3, width)

    return {
        "token": rng.normal(size=(n_values, width)),
        "position": rng.normal(size=(context_length, width)),
        "output": rng.normal(0, width**-0.5, (n_values, width)),
        "norm": [norm() for _ in range(n_layers)],
        "qkv": [linear(width, columns) for _ in range(n_layers)],
        "projection": [linear(width, width) for _ in range(n_layers)],
        "mlp_norm": [norm() for _ in range(n_layers)],
        "up": [linear(width, F) for _ in range(n_layers)],
        "down": [linear(F, width) for _ in range(n_layers)],
        "last_norm": norm(),
    }
