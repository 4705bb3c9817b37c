# cython: boundscheck=False
"""chainrule's kernels from Cython: one released GIL around several calls."""

from chainrule.cykernels cimport (
    CHAINRULE_EXP,
    CHAINRULE_GELU_ERF,
    CHAINRULE_IDENTITY,
    CHAINRULE_PLAIN,
    CHAINRULE_RELU,
    api,
    chainrule_api,
    chainrule_attention,
    chainrule_cache_f32,
    chainrule_choice,
    chainrule_conv_f32,
    chainrule_exec,
    chainrule_layer_f32,
    chainrule_linear_f32,
    chainrule_logistic_mixture,
    chainrule_mask,
    chainrule_network_f32,
    chainrule_nade_f32,
    chainrule_nade_gradient_f32,
    chainrule_ones,
    chainrule_sequences_f32,
    chainrule_transformer_block_f32,
    chainrule_transformer_f32,
    chainrule_weights_f32,
)
from libc.stdint cimport int32_t, uint8_t, uint32_t


def score(const uint8_t[:, ::1] x, const float[:, ::1] W, const float[:, ::1] V, const float[::1] b,
          const float[::1] c, double[::1] log_prob, float[:, ::1] logits, float[:, ::1] odds):
    """Log-likelihoods and logits under a ReLU NADE, and exp(logits)."""
    cdef chainrule_nade_f32 model
    model.n_features, model.n_hidden = W.shape[0], W.shape[1]
    model.W, model.V, model.b, model.c = &W[0, 0], &V[0, 0], &b[0], &c[0]
    model.ldw = model.ldv = W.shape[1]
    model.activation = CHAINRULE_RELU
    model.order, model.flip = NULL, NULL
    cdef chainrule_exec run
    run.n_threads, run.poll, run.poll_data = 2, NULL, NULL
    cdef const chainrule_api *kernels = api()
    cdef int status
    with nogil:
        status = kernels.nade_score_f32(
            &model, x.shape[0], &x[0, 0], x.shape[1], &log_prob[0], NULL, &logits[0, 0], &run)
        status |= kernels.map_f32(CHAINRULE_EXP, x.shape[0] * x.shape[1], &logits[0, 0], &odds[0, 0], NULL)
    if status:
        raise RuntimeError(f"status {status}")


def gradient(const uint8_t[:, ::1] x, const float[:, ::1] W, const float[:, ::1] V, const float[::1] b,
             const float[::1] c, float[:, ::1] dW, float[:, ::1] dV, float[::1] db, float[::1] dc):
    """Gradient of the mean negative log-likelihood."""
    cdef chainrule_nade_f32 model = chainrule_nade_f32(
        W.shape[0], W.shape[1], &W[0, 0], &V[0, 0], &b[0], &c[0], W.shape[1], W.shape[1], CHAINRULE_RELU, NULL, NULL)
    cdef chainrule_nade_gradient_f32 to = chainrule_nade_gradient_f32(
        &dW[0, 0], &dV[0, 0], &db[0], &dc[0], W.shape[1], W.shape[1])
    cdef int status
    with nogil:
        status = api().nade_gradient_f32(&model, x.shape[0], &x[0, 0], x.shape[1], NULL, NULL, &to, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def categories(const uint8_t[:, ::1] x, const uint32_t[::1] first, const double[:, ::1] logits, const double[:, ::1] u,
               double[::1] log_prob, double[:, ::1] dlogits, uint8_t[:, ::1] drawn):
    """Log-likelihoods, the gradient by the logits and draws of categorical columns."""
    cdef size_t m = x.shape[0], n = x.shape[1], n_logits = logits.shape[1]
    cdef int status
    with nogil:
        status = api().categorical_gradient_f64(
            m, n, &first[0], NULL, &logits[0, 0], n_logits, &x[0, 0], n, NULL, &log_prob[0], &dlogits[0, 0], n_logits, NULL)
        status |= api().categorical_sample_f64(
            m, n, &first[0], NULL, &logits[0, 0], n_logits, &u[0, 0], n, &drawn[0, 0], n, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def levels(const int32_t[:, ::1] x, int32_t n_values, size_t n_components, const float[:, ::1] parameters,
           const double[:, ::1] u, double[:, ::1] terms, double[::1] log_prob, float[:, ::1] dparameters,
           int32_t[:, ::1] drawn):
    """Terms, log-likelihoods, the gradient and draws of mixtures of logistics."""
    cdef size_t m = x.shape[0], n = x.shape[1], size = parameters.shape[1]
    cdef chainrule_logistic_mixture mixture = chainrule_logistic_mixture(n, n_components, n_values, -7)
    cdef int status
    with nogil:
        status = api().logistic_mixture_log_prob_f32(&mixture, m, &parameters[0, 0], size, &x[0, 0], n, NULL, &terms[0, 0], NULL)
        status |= api().logistic_mixture_gradient_f32(
            &mixture, m, &parameters[0, 0], size, &x[0, 0], n, NULL, &log_prob[0], &dparameters[0, 0], size, NULL)
        status |= api().logistic_mixture_sample_f32(
            &mixture, m, &parameters[0, 0], size, &u[0, 0], n, &drawn[0, 0], n, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def bits(const uint8_t[:, ::1] x, float[:, ::1] logits, double[::1] log_prob):
    """Log-likelihoods of bits; the logits become their gradient."""
    cdef int status
    with nogil:
        status = api().bernoulli_gradient_f32(
            x.shape[0], x.shape[1], &logits[0, 0], x.shape[1], &x[0, 0], x.shape[1], NULL, &log_prob[0], &logits[0, 0],
            x.shape[1], NULL)
    if status:
        raise RuntimeError(f"status {status}")


def masked(const uint8_t[:, ::1] x, const float[:, ::1] W, const float[:, ::1] V, const float[::1] b, const float[::1] c,
           const uint32_t[::1] before, const uint32_t[::1] upto, const int32_t[::1] ready, const double[:, ::1] u,
           float[:, ::1] h, float[:, ::1] logits, uint8_t[:, ::1] drawn):
    """A masked network of at most 32 variables and units: hidden states, logits and draws. Word k of the masks is input k's."""
    cdef uint32_t n = x.shape[1], d = W.shape[1], m = x.shape[0]
    cdef uint32_t[2] to_hidden
    cdef uint32_t[2] to_output
    cdef uint32_t[2] panel
    to_hidden[0], to_hidden[1], to_output[0], to_output[1], panel[0], panel[1] = 0, n, 0, d, 0, 1
    cdef uint8_t[32] codes
    cdef uint32_t[32] index
    cdef uint32_t count
    cdef chainrule_mask first = chainrule_mask(&upto[0], &to_hidden[0], &panel[0]), last = chainrule_mask(&before[0], &to_output[0], &panel[0])
    cdef chainrule_linear_f32 w = chainrule_linear_f32(n, d, &W[0, 0], d, 32, &first, NULL, NULL, 0, 0)
    cdef chainrule_linear_f32 v = chainrule_linear_f32(d, n, &V[0, 0], n, 32, &last, NULL, NULL, 0, 0)
    cdef chainrule_ones ones = chainrule_ones(n, &index[0], &count)
    cdef chainrule_layer_f32 hidden = chainrule_layer_f32(w, &b[0], NULL, 0, CHAINRULE_RELU, 0, &ready[0])
    cdef chainrule_network_f32 net
    net.n_features, net.n_layers, net.order, net.first, net.reference = n, 1, NULL, NULL, NULL
    net.hidden, net.direct.W = &hidden, NULL
    net.output = chainrule_layer_f32(v, &c[0], NULL, 0, CHAINRULE_IDENTITY, 0, NULL)
    cdef int status = 0
    cdef uint32_t r
    with nogil:
        for r in range(m):
            status |= api().encode(1, n, &x[r, 0], n, NULL, NULL, NULL, codes, n, index, n, &count, NULL)
            status |= api().sparse_linear_f32(&w, 1, &ones, NULL, 0, &b[0], CHAINRULE_RELU, &h[r, 0], d, NULL)
        status |= api().masked_linear_f32(&v, m, &h[0, 0], d, NULL, 0, &c[0], CHAINRULE_IDENTITY, &logits[0, 0], n, NULL)
        status |= api().masked_sample_f32(&net, u.shape[0], &u[0, 0], n, NULL, &drawn[0, 0], n, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def convolve(float[:, :, ::1] x, const float[:, :, ::1] W, const float[::1] b, size_t dilation, float[:, :, ::1] y):
    """A causal convolution with a ReLU; x has its history in front, W stands in panels."""
    cdef size_t channels = x.shape[2], n_in = W.shape[1], n_out = y.shape[2]
    cdef chainrule_conv_f32 conv
    conv.linear = chainrule_linear_f32(n_in, n_out, &W[0, 0, 0], 32, n_in * 32, NULL, NULL)
    conv.width, conv.dilation = n_in // channels, dilation
    cdef chainrule_sequences_f32 source = chainrule_sequences_f32(&x[0, 0, 0], x.shape[1] * channels, channels)
    cdef chainrule_sequences_f32 target = chainrule_sequences_f32(&y[0, 0, 0], y.shape[1] * n_out, n_out)
    cdef int status
    with nogil:
        status = api().causal_conv_f32(&conv, y.shape[0], y.shape[1], &source, &b[0], CHAINRULE_RELU, &target, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def tokens(const float[:, ::1] x, const float[::1] gain, const float[::1] bias, const double[::1] u, double top_p,
           float[:, ::1] y, int32_t[::1] drawn):
    """A value of each row from the logits gelu(layer_norm(x))."""
    cdef chainrule_choice choice = chainrule_choice(0.5, top_p, 7)
    cdef int status
    with nogil:
        status = api().layer_norm_f32(
            x.shape[0], x.shape[1], &x[0, 0], x.shape[1], &gain[0], &bias[0], 1e-5, &y[0, 0], x.shape[1], NULL, NULL)
        status |= api().gelu_f32(CHAINRULE_GELU_ERF, x.shape[0] * x.shape[1], &y[0, 0], &y[0, 0], NULL)
        status |= api().softmax_sample_f32(
            &choice, x.shape[0], x.shape[1], &y[0, 0], x.shape[1], &u[0], &drawn[0], NULL)
    if status:
        raise RuntimeError(f"status {status}")


def attend(float[:, ::1] qkv, size_t n_heads, float[::1] keys, float[::1] values, float[:, ::1] y):
    """Causal attention of one sequence, step by step over a cache; qkv: queries, keys and values side by side."""
    cdef size_t width = y.shape[1], all_of = qkv.shape[1], steps = y.shape[0]
    cdef chainrule_attention attention = chainrule_attention(n_heads, n_heads, width // n_heads, 0.5, 1)
    cdef chainrule_cache_f32 cache = chainrule_cache_f32(&keys[0], &values[0], steps)
    cdef chainrule_sequences_f32 q, k, v, to
    cdef uint32_t t
    cdef int status = 0
    with nogil:
        for t in range(<uint32_t>steps):
            q = chainrule_sequences_f32(&qkv[t, 0], all_of, all_of)
            k = chainrule_sequences_f32(&qkv[t, width], all_of, all_of)
            v = chainrule_sequences_f32(&qkv[t, 2 * width], all_of, all_of)
            to = chainrule_sequences_f32(&y[t, 0], width, width)
            status |= api().attention_step_f32(&attention, 1, 1, &t, &q, &k, &v, &cache, &to, NULL)
    if status:
        raise RuntimeError(f"status {status}")


cdef chainrule_weights_f32 matrix(const float[:, :, ::1] W, size_t n_out) noexcept nogil:
    return chainrule_weights_f32(W.shape[1], n_out, CHAINRULE_PLAIN, &W[0, 0, 0], NULL, NULL)


def complete(const int32_t[::1] tokens, const float[:, :, ::1] table, size_t n_values, const float[:, ::1] position,
             const float[::1] gain, const float[::1] bias, const float[:, :, ::1] qkv, const float[:, :, ::1] projection,
             const float[:, :, ::1] up, size_t n_hidden, const float[:, :, ::1] down, float[::1] keys, float[::1] values,
             float[:, ::1] logits):
    """A Transformer of one block with two heads, token by token: the logits after each."""
    cdef size_t width = position.shape[1]
    cdef chainrule_transformer_block_f32 block
    block.norm_gain, block.norm_bias, block.mlp_norm_gain, block.mlp_norm_bias = &gain[0], &bias[0], &gain[0], &bias[0]
    block.query_key_value, block.projection = matrix(qkv, 3 * width), matrix(projection, width)
    block.up, block.down = matrix(up, n_hidden), matrix(down, width)
    block.cross_query.W = block.cross_projection.W = NULL
    cdef chainrule_transformer_f32 net
    net.n_blocks, net.width, net.n_values = 1, width, n_values
    net.attention = chainrule_attention(2, 2, width // 2, 0.5, 1)
    net.post_norm, net.activation, net.epsilon = 0, CHAINRULE_RELU, 1e-5
    net.token, net.output, net.position = matrix(table, n_values), matrix(table, n_values), &position[0, 0]
    net.blocks, net.norm_gain, net.norm_bias = &block, &gain[0], &bias[0]
    cdef chainrule_cache_f32 cache = chainrule_cache_f32(&keys[0], &values[0], tokens.shape[0])
    cdef uint32_t t
    cdef int status = 0
    with nogil:
        for t in range(<uint32_t>tokens.shape[0]):
            status |= api().transformer_step_f32(
                &net, 1, 1, &tokens[t], 1, &t, NULL, &cache, NULL, NULL, &logits[t, 0], n_values, NULL)
    if status:
        raise RuntimeError(f"status {status}")


def about():
    """Version and instruction set of the table."""
    return api().version.decode(), api().isa.decode()
