# cython: boundscheck=False
"""chainrule's kernels from Cython: one released GIL around several calls."""

from chainrule.cykernels cimport (
    CHAINRULE_EXP,
    CHAINRULE_RELU,
    api,
    chainrule_api,
    chainrule_exec,
    chainrule_nade_f32,
    chainrule_nade_gradient_f32,
)
from libc.stdint cimport uint8_t, uint32_t


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


def bits(const uint8_t[:, ::1] x, float[:, ::1] logits, double[::1] log_prob):
    """Log-likelihoods of bits; the logits become their gradient."""
    cdef int status
    with nogil:
        status = api().bernoulli_gradient_f32(
            x.shape[0], x.shape[1], &logits[0, 0], x.shape[1], &x[0, 0], x.shape[1], NULL, &log_prob[0], &logits[0, 0],
            x.shape[1], NULL)
    if status:
        raise RuntimeError(f"status {status}")


def about():
    """Version and instruction set of the table."""
    return api().version.decode(), api().isa.decode()
