# cimport chainrule.cykernels: the dispatched kernels for Cython, without the GIL:
#
#     from chainrule.cykernels cimport api, chainrule_nade_f32
#     with nogil: status = api().nade_score_f32(&model, n_rows, x, ldx, log_prob, NULL, NULL, NULL)
#
# Signatures and shapes are those of chainrule/chainrule.h (compile with chainrule.get_include() on the include path).
# A status other than 0 is an error: 1 no memory, 2 interrupted.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "chainrule/chainrule.h" nogil:
    ctypedef int chainrule_status
    ctypedef struct chainrule_exec:
        int32_t n_threads
        int32_t (*poll)(void *) noexcept nogil
        void *poll_data
    ctypedef struct chainrule_logistic_mixture:
        size_t n_features, n_components
        int32_t n_values
        double log_scale_min
    ctypedef struct chainrule_optimizer:
        int32_t rule
        double learning_rate, beta1, beta2, correction1, correction2, epsilon
        double weight_decay, l2, gradient_scale, average_decay
    ctypedef struct chainrule_nade_f32:
        size_t n_features, n_hidden
        const float *W
        const float *V
        const float *b
        const float *c
        size_t ldw, ldv
        int32_t activation
        const uint32_t *order
        const uint8_t *flip
    ctypedef struct chainrule_nade_f64:
        size_t n_features, n_hidden
        const double *W
        const double *V
        const double *b
        const double *c
        size_t ldw, ldv
        int32_t activation
        const uint32_t *order
        const uint8_t *flip
    ctypedef struct chainrule_nade_categorical_f32:
        size_t n_features, n_hidden
        const float *W
        const float *V
        const float *b
        const float *c
        size_t ldw, ldv
        int32_t activation
        const uint32_t *order
        const uint32_t *first
        const uint8_t *reference
    ctypedef struct chainrule_nade_gradient_f32:
        float *W
        float *V
        float *b
        float *c
        size_t ldw, ldv
    ctypedef struct chainrule_nade_categorical_f64:
        size_t n_features, n_hidden
        const double *W
        const double *V
        const double *b
        const double *c
        size_t ldw, ldv
        int32_t activation
        const uint32_t *order
        const uint32_t *first
        const uint8_t *reference
    ctypedef struct chainrule_nade_gradient_f64:
        double *W
        double *V
        double *b
        double *c
        size_t ldw, ldv
    ctypedef struct chainrule_mask:
        const uint32_t *words
        const uint32_t *spans
        const uint32_t *span_of
    ctypedef struct chainrule_ones:
        size_t ld
        const uint32_t *index
        const uint32_t *count
    ctypedef struct chainrule_linear_f32:
        size_t n_in, n_out
        const float *W
        size_t ldw, panel
        const chainrule_mask *mask
        const chainrule_mask *transposed
        const uint32_t *rows
        int32_t turned, whole
    ctypedef struct chainrule_layer_f32:
        chainrule_linear_f32 linear
        const float *b
        const float *addend
        size_t lda
        int32_t activation, residual
        const int32_t *ready
    ctypedef struct chainrule_network_f32:
        size_t n_features, n_layers
        const uint32_t *order
        const uint32_t *first
        const uint8_t *reference
        const chainrule_layer_f32 *hidden
        chainrule_layer_f32 output
        chainrule_linear_f32 direct
    ctypedef struct chainrule_linear_f64:
        size_t n_in, n_out
        const double *W
        size_t ldw, panel
        const chainrule_mask *mask
        const chainrule_mask *transposed
        const uint32_t *rows
        int32_t turned, whole
    ctypedef struct chainrule_layer_f64:
        chainrule_linear_f64 linear
        const double *b
        const double *addend
        size_t lda
        int32_t activation, residual
        const int32_t *ready
    ctypedef struct chainrule_network_f64:
        size_t n_features, n_layers
        const uint32_t *order
        const uint32_t *first
        const uint8_t *reference
        const chainrule_layer_f64 *hidden
        chainrule_layer_f64 output
        chainrule_linear_f64 direct
    int CHAINRULE_SGD, CHAINRULE_MOMENTUM, CHAINRULE_NESTEROV, CHAINRULE_ADAGRAD, CHAINRULE_RMSPROP
    int CHAINRULE_ADADELTA, CHAINRULE_ADAM
    int CHAINRULE_SIGMOID, CHAINRULE_RELU, CHAINRULE_TANH, CHAINRULE_IDENTITY, CHAINRULE_MAX_LAYERS
    int CHAINRULE_EXP, CHAINRULE_EXPM1, CHAINRULE_LOG, CHAINRULE_LOG1P, CHAINRULE_SIGMOID_OF, CHAINRULE_TANH_OF
    int CHAINRULE_SOFTPLUS, CHAINRULE_ERF, CHAINRULE_SIN, CHAINRULE_COS

    ctypedef struct chainrule_sequences_f32:
        float *data
        size_t row, ld
    ctypedef struct chainrule_conv_f32:
        chainrule_linear_f32 linear
        size_t width, dilation
    ctypedef struct chainrule_gated_block_f32:
        size_t n_channels, n_skip, width, dilation
        const float *W
        const float *b
        const float *residual
        const float *residual_bias
        const float *skip
        const float *skip_bias
    ctypedef struct chainrule_gated_block_gradient_f32:
        float *W
        float *b
        float *residual
        float *residual_bias
        float *skip
        float *skip_bias
    ctypedef struct chainrule_frames_f32:
        float *data
        size_t row, ld, hop, phase
    ctypedef struct chainrule_wavenet_f32:
        size_t n_blocks, n_values, n_components, n_parameters
        const chainrule_gated_block_f32 *blocks
        const float *input
        const float *input_bias
        const float *head
        const float *head_bias
        const float *output
        const float *output_bias
        double log_scale_min, temperature
    ctypedef struct chainrule_sequences_f64:
        double *data
        size_t row, ld
    ctypedef struct chainrule_conv_f64:
        chainrule_linear_f64 linear
        size_t width, dilation
    ctypedef struct chainrule_gated_block_f64:
        size_t n_channels, n_skip, width, dilation
        const double *W
        const double *b
        const double *residual
        const double *residual_bias
        const double *skip
        const double *skip_bias
    ctypedef struct chainrule_gated_block_gradient_f64:
        double *W
        double *b
        double *residual
        double *residual_bias
        double *skip
        double *skip_bias
    ctypedef struct chainrule_frames_f64:
        double *data
        size_t row, ld, hop, phase
    ctypedef struct chainrule_wavenet_f64:
        size_t n_blocks, n_values, n_components, n_parameters
        const chainrule_gated_block_f64 *blocks
        const double *input
        const double *input_bias
        const double *head
        const double *head_bias
        const double *output
        const double *output_bias
        double log_scale_min, temperature
    ctypedef struct chainrule_attention:
        size_t n_heads, n_kv_heads, head_size
        double scale
        int32_t causal
    ctypedef struct chainrule_choice:
        double temperature, top_p
        uint32_t top_k
    int CHAINRULE_PLAIN, CHAINRULE_BF16, CHAINRULE_INT8, CHAINRULE_GELU_TANH, CHAINRULE_GELU_ERF
    ctypedef struct chainrule_cache_f32:
        float *keys
        float *values
        size_t capacity
    ctypedef struct chainrule_weights_f32:
        size_t n_in, n_out
        int32_t format
        const void *W
        const float *scale
        const float *b
    ctypedef struct chainrule_transformer_block_f32:
        const float *norm_gain
        const float *norm_bias
        const float *cross_norm_gain
        const float *cross_norm_bias
        const float *mlp_norm_gain
        const float *mlp_norm_bias
        chainrule_weights_f32 query_key_value, projection, cross_query, cross_projection, up, down
    ctypedef struct chainrule_transformer_f32:
        size_t n_blocks, width, n_values
        chainrule_attention attention
        int32_t post_norm, activation
        double epsilon
        chainrule_weights_f32 token, output
        const float *position
        const chainrule_transformer_block_f32 *blocks
        const float *norm_gain
        const float *norm_bias
    ctypedef struct chainrule_cache_f64:
        double *keys
        double *values
        size_t capacity
    ctypedef struct chainrule_weights_f64:
        size_t n_in, n_out
        int32_t format
        const void *W
        const float *scale
        const double *b
    ctypedef struct chainrule_transformer_block_f64:
        const double *norm_gain
        const double *norm_bias
        const double *cross_norm_gain
        const double *cross_norm_bias
        const double *mlp_norm_gain
        const double *mlp_norm_bias
        chainrule_weights_f64 query_key_value, projection, cross_query, cross_projection, up, down
    ctypedef struct chainrule_transformer_f64:
        size_t n_blocks, width, n_values
        chainrule_attention attention
        int32_t post_norm, activation
        double epsilon
        chainrule_weights_f64 token, output
        const double *position
        const chainrule_transformer_block_f64 *blocks
        const double *norm_gain
        const double *norm_bias
    ctypedef chainrule_status chainrule_nade_score_f32_fn(
        const chainrule_nade_f32 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob, double *terms,
        float *logits, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_gradient_f32_fn(
        const chainrule_nade_f32 *, size_t n_rows, const uint8_t *x, size_t ldx, const float *weight, double *log_prob,
        const chainrule_nade_gradient_f32 *, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_sample_f32_fn(
        const chainrule_nade_f32 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
        uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_log_prob_f32_fn(
        size_t n_rows, size_t n_features, const float *logits, size_t ldl, const uint8_t *x, size_t ldx,
        double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_sample_f32_fn(
        size_t n_rows, size_t n_features, const float *logits, size_t ldl, const double *u, size_t ldu, uint8_t *x,
        size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_gradient_f32_fn(
        size_t n_rows, size_t n_features, const float *logits, size_t ldl, const uint8_t *x, size_t ldx,
        const float *weight, double *log_prob, float *dlogits, size_t ldd, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_log_prob_f32_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const float *logits,
        size_t ldl, const uint8_t *x, size_t ldx, double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_gradient_f32_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const float *logits,
        size_t ldl, const uint8_t *x, size_t ldx, const float *weight, double *log_prob, float *dlogits, size_t ldd,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_sample_f32_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const float *logits,
        size_t ldl, const double *u, size_t ldu, uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_optimizer_step_f32_fn(
        const chainrule_optimizer *, size_t n, float *parameters, const float *gradient, float *s, float *t, float *average,
        size_t n_live, const uint64_t *live,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sum_squares_f32_fn(
        size_t n, const float *x, double *sum, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_map_f32_fn(
        int32_t function, size_t n, const float *x, float *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_score_f32_fn(
        const chainrule_nade_categorical_f32 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob,
        double *terms, float *logits, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_gradient_f32_fn(
        const chainrule_nade_categorical_f32 *, size_t n_rows, const uint8_t *x, size_t ldx, const float *weight,
        double *log_prob, const chainrule_nade_gradient_f32 *, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_sample_f32_fn(
        const chainrule_nade_categorical_f32 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
        uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_log_prob_f32_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const float *parameters, size_t ldp, const int32_t *x,
        size_t ldx, double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_gradient_f32_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const float *parameters, size_t ldp, const int32_t *x,
        size_t ldx, const float *weight, double *log_prob, float *dparameters, size_t ldd,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_sample_f32_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const float *parameters, size_t ldp, const double *u,
        size_t ldu, int32_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logsumexp_f32_fn(
        size_t n_rows, size_t n_columns, const float *x, size_t ldx, float *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_f32_fn(
        const chainrule_linear_f32 *, size_t n_rows, const float *x, size_t ldx, const float *addend, size_t lda,
        const float *b, int32_t activation, float *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_input_gradient_f32_fn(
        const chainrule_linear_f32 *, size_t n_rows, const float *dy, size_t lddy, const float *addend, size_t lda,
        const float *h, size_t ldh, int32_t activation, float *dx, size_t lddx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_weight_gradient_f32_fn(
        const chainrule_linear_f32 *, size_t n_rows, const float *x, size_t ldx, const float *dy, size_t lddy, float *dW,
        float *db, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_step_f32_fn(
        const chainrule_optimizer *, const chainrule_linear_f32 *, size_t n_rows, const float *x, size_t ldx,
        const float *dy, size_t lddy, float *parameters, float *s, float *t, float *average, float *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_f32_fn(
        const chainrule_linear_f32 *, size_t n_rows, const chainrule_ones *x, const float *addend, size_t lda,
        const float *b, int32_t activation, float *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_weight_gradient_f32_fn(
        const chainrule_linear_f32 *, size_t n_rows, const chainrule_ones *x, const float *dy, size_t lddy, float *dW,
        float *db, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_step_f32_fn(
        const chainrule_optimizer *, const chainrule_linear_f32 *, size_t n_rows, const chainrule_ones *x,
        const float *dy, size_t lddy, float *parameters, float *s, float *t, float *average, float *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_permute_columns_f32_fn(
        const chainrule_linear_f32 *, const uint32_t *columns, int32_t back, float *out,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_sample_f32_fn(
        const chainrule_network_f32 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed, uint8_t *x,
        size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_score_f32_fn(
        const chainrule_network_f32 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob, double *terms,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_causal_conv_f32_fn(const chainrule_conv_f32 *, size_t n_rows, size_t n_steps,
        const chainrule_sequences_f32 *x, const float *b, int32_t activation, const chainrule_sequences_f32 *y, const
        chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_causal_conv_input_gradient_f32_fn(const chainrule_conv_f32 *, size_t n_rows,
        size_t n_steps, const chainrule_sequences_f32 *dy, const chainrule_sequences_f32 *addend, const
        chainrule_sequences_f32 *dx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_causal_conv_weight_gradient_f32_fn(const chainrule_conv_f32 *, size_t n_rows,
        size_t n_steps, const chainrule_sequences_f32 *x, const chainrule_sequences_f32 *dy, float *dW, float *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gated_block_f32_fn(const chainrule_gated_block_f32 *, size_t n_rows, size_t
        n_steps, size_t n_skip_steps, const uint32_t *start, const chainrule_sequences_f32 *x, const
        chainrule_frames_f32 *frames, const chainrule_sequences_f32 *y, const chainrule_sequences_f32 *skip, int32_t
        first, const chainrule_sequences_f32 *gates, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gated_block_gradient_f32_fn(const chainrule_gated_block_f32 *, size_t n_rows,
        size_t n_steps, size_t n_skip_steps, const uint32_t *start, const chainrule_sequences_f32 *x, const
        chainrule_sequences_f32 *gates, const chainrule_sequences_f32 *dy, const chainrule_sequences_f32 *dskip, const
        chainrule_gated_block_gradient_f32 *, const chainrule_frames_f32 *dframes, const chainrule_sequences_f32 *dx,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_embedding_f32_fn(size_t n_values, size_t n_out, int32_t turned, const float *E,
        size_t n_rows, const int32_t *index, float *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_embedding_gradient_f32_fn(size_t n_values, size_t n_out, int32_t turned,
        size_t n_rows, const int32_t *index, const float *dy, size_t lddy, float *dE, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_wavenet_sample_f32_fn(const chainrule_wavenet_f32 *, size_t n_rows, size_t
        n_steps, const double *u, size_t ldu, const int32_t *previous, float *state, uint64_t taken, const
        chainrule_frames_f32 *frames, int32_t *x, size_t ldx, const chainrule_exec *) noexcept nogil

    ctypedef chainrule_status chainrule_nade_score_f64_fn(
        const chainrule_nade_f64 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob, double *terms,
        double *logits, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_gradient_f64_fn(
        const chainrule_nade_f64 *, size_t n_rows, const uint8_t *x, size_t ldx, const double *weight, double *log_prob,
        const chainrule_nade_gradient_f64 *, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_sample_f64_fn(
        const chainrule_nade_f64 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
        uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_log_prob_f64_fn(
        size_t n_rows, size_t n_features, const double *logits, size_t ldl, const uint8_t *x, size_t ldx,
        double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_sample_f64_fn(
        size_t n_rows, size_t n_features, const double *logits, size_t ldl, const double *u, size_t ldu, uint8_t *x,
        size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_bernoulli_gradient_f64_fn(
        size_t n_rows, size_t n_features, const double *logits, size_t ldl, const uint8_t *x, size_t ldx,
        const double *weight, double *log_prob, double *dlogits, size_t ldd, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_log_prob_f64_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const double *logits,
        size_t ldl, const uint8_t *x, size_t ldx, double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_gradient_f64_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const double *logits,
        size_t ldl, const uint8_t *x, size_t ldx, const double *weight, double *log_prob, double *dlogits, size_t ldd,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_categorical_sample_f64_fn(
        size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const double *logits,
        size_t ldl, const double *u, size_t ldu, uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_optimizer_step_f64_fn(
        const chainrule_optimizer *, size_t n, double *parameters, const double *gradient, double *s, double *t, double *average,
        size_t n_live, const uint64_t *live,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sum_squares_f64_fn(
        size_t n, const double *x, double *sum, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_map_f64_fn(
        int32_t function, size_t n, const double *x, double *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_score_f64_fn(
        const chainrule_nade_categorical_f64 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob,
        double *terms, double *logits, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_gradient_f64_fn(
        const chainrule_nade_categorical_f64 *, size_t n_rows, const uint8_t *x, size_t ldx, const double *weight,
        double *log_prob, const chainrule_nade_gradient_f64 *, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_nade_categorical_sample_f64_fn(
        const chainrule_nade_categorical_f64 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
        uint8_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_log_prob_f64_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const double *parameters, size_t ldp, const int32_t *x,
        size_t ldx, double *log_prob, double *terms, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_gradient_f64_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const double *parameters, size_t ldp, const int32_t *x,
        size_t ldx, const double *weight, double *log_prob, double *dparameters, size_t ldd,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logistic_mixture_sample_f64_fn(
        const chainrule_logistic_mixture *, size_t n_rows, const double *parameters, size_t ldp, const double *u,
        size_t ldu, int32_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_logsumexp_f64_fn(
        size_t n_rows, size_t n_columns, const double *x, size_t ldx, double *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_f64_fn(
        const chainrule_linear_f64 *, size_t n_rows, const double *x, size_t ldx, const double *addend, size_t lda,
        const double *b, int32_t activation, double *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_input_gradient_f64_fn(
        const chainrule_linear_f64 *, size_t n_rows, const double *dy, size_t lddy, const double *addend, size_t lda,
        const double *h, size_t ldh, int32_t activation, double *dx, size_t lddx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_weight_gradient_f64_fn(
        const chainrule_linear_f64 *, size_t n_rows, const double *x, size_t ldx, const double *dy, size_t lddy, double *dW,
        double *db, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_linear_step_f64_fn(
        const chainrule_optimizer *, const chainrule_linear_f64 *, size_t n_rows, const double *x, size_t ldx,
        const double *dy, size_t lddy, double *parameters, double *s, double *t, double *average, double *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_f64_fn(
        const chainrule_linear_f64 *, size_t n_rows, const chainrule_ones *x, const double *addend, size_t lda,
        const double *b, int32_t activation, double *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_weight_gradient_f64_fn(
        const chainrule_linear_f64 *, size_t n_rows, const chainrule_ones *x, const double *dy, size_t lddy, double *dW,
        double *db, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_sparse_linear_step_f64_fn(
        const chainrule_optimizer *, const chainrule_linear_f64 *, size_t n_rows, const chainrule_ones *x,
        const double *dy, size_t lddy, double *parameters, double *s, double *t, double *average, double *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_permute_columns_f64_fn(
        const chainrule_linear_f64 *, const uint32_t *columns, int32_t back, double *out,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_sample_f64_fn(
        const chainrule_network_f64 *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed, uint8_t *x,
        size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_masked_score_f64_fn(
        const chainrule_network_f64 *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob, double *terms,
        const chainrule_exec *) noexcept nogil

    ctypedef chainrule_status chainrule_uniforms_fn(
        const uint64_t *key, uint64_t first_block, size_t n, double *u, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_encode_fn(
        size_t n_rows, size_t n_features, const uint8_t *x, size_t ldx, const uint32_t *order, const uint8_t *reference,
        const uint32_t *first, uint8_t *y, size_t ldy, uint32_t *index, size_t ldi, uint32_t *count,
        const chainrule_exec *) noexcept nogil

    ctypedef chainrule_status chainrule_causal_conv_f64_fn(const chainrule_conv_f64 *, size_t n_rows, size_t n_steps,
        const chainrule_sequences_f64 *x, const double *b, int32_t activation, const chainrule_sequences_f64 *y, const
        chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_causal_conv_input_gradient_f64_fn(const chainrule_conv_f64 *, size_t n_rows,
        size_t n_steps, const chainrule_sequences_f64 *dy, const chainrule_sequences_f64 *addend, const
        chainrule_sequences_f64 *dx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_causal_conv_weight_gradient_f64_fn(const chainrule_conv_f64 *, size_t n_rows,
        size_t n_steps, const chainrule_sequences_f64 *x, const chainrule_sequences_f64 *dy, double *dW, double *db,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gated_block_f64_fn(const chainrule_gated_block_f64 *, size_t n_rows, size_t
        n_steps, size_t n_skip_steps, const uint32_t *start, const chainrule_sequences_f64 *x, const
        chainrule_frames_f64 *frames, const chainrule_sequences_f64 *y, const chainrule_sequences_f64 *skip, int32_t
        first, const chainrule_sequences_f64 *gates, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gated_block_gradient_f64_fn(const chainrule_gated_block_f64 *, size_t n_rows,
        size_t n_steps, size_t n_skip_steps, const uint32_t *start, const chainrule_sequences_f64 *x, const
        chainrule_sequences_f64 *gates, const chainrule_sequences_f64 *dy, const chainrule_sequences_f64 *dskip, const
        chainrule_gated_block_gradient_f64 *, const chainrule_frames_f64 *dframes, const chainrule_sequences_f64 *dx,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_embedding_f64_fn(size_t n_values, size_t n_out, int32_t turned, const double *E,
        size_t n_rows, const int32_t *index, double *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_embedding_gradient_f64_fn(size_t n_values, size_t n_out, int32_t turned,
        size_t n_rows, const int32_t *index, const double *dy, size_t lddy, double *dE, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_wavenet_sample_f64_fn(const chainrule_wavenet_f64 *, size_t n_rows, size_t
        n_steps, const double *u, size_t ldu, const int32_t *previous, double *state, uint64_t taken, const
        chainrule_frames_f64 *frames, int32_t *x, size_t ldx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_layer_norm_f32_fn(
        size_t n_rows, size_t n, const float *x, size_t ldx, const float *gain, const float *bias, double epsilon,
        float *y, size_t ldy, float *statistics, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_layer_norm_gradient_f32_fn(
        size_t n_rows, size_t n, const float *x, size_t ldx, const float *gain, const float *statistics,
        const float *dy, size_t lddy, const float *addend, size_t lda, float *dx, size_t lddx, float *dgain,
        float *dbias, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gelu_f32_fn(
        int32_t form, size_t n, const float *x, float *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gelu_gradient_f32_fn(
        int32_t form, size_t n, const float *x, const float *dy, float *dx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_dropout_f32_fn(
        const uint64_t *key, uint64_t first_block, double rate, size_t n, const float *x, float *y,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_log_prob_f32_fn(
        size_t n_rows, size_t n_values, const float *logits, size_t ldl, const int32_t *target, double *log_prob,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_gradient_f32_fn(
        size_t n_rows, size_t n_values, const float *logits, size_t ldl, const int32_t *target, const float *weight,
        double *log_prob, float *dlogits, size_t ldd, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_sample_f32_fn(
        const chainrule_choice *, size_t n_rows, size_t n_values, const float *logits, size_t ldl, const double *u,
        int32_t *x, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_f32_fn(
        const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,
        const chainrule_sequences_f32 *q, const chainrule_sequences_f32 *k, const chainrule_sequences_f32 *v,
        const chainrule_sequences_f32 *y, float *statistics, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_gradient_f32_fn(
        const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,
        const chainrule_sequences_f32 *q, const chainrule_sequences_f32 *k, const chainrule_sequences_f32 *v,
        const chainrule_sequences_f32 *y, const float *statistics, const chainrule_sequences_f32 *dy,
        const chainrule_sequences_f32 *dq, const chainrule_sequences_f32 *dk, const chainrule_sequences_f32 *dv,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_step_f32_fn(
        const chainrule_attention *, size_t n_rows, size_t n_steps, const uint32_t *lengths,
        const chainrule_sequences_f32 *q, const chainrule_sequences_f32 *k, const chainrule_sequences_f32 *v,
        const chainrule_cache_f32 *, const chainrule_sequences_f32 *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_packed_linear_f32_fn(
        const chainrule_weights_f32 *, size_t n_rows, const float *x, size_t ldx, const float *addend, size_t lda,
        float *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_transformer_step_f32_fn(
        const chainrule_transformer_f32 *, size_t n_rows, size_t n_steps, const int32_t *tokens, size_t ldt,
        const uint32_t *lengths, const uint32_t *last, const chainrule_cache_f32 *caches,
        const chainrule_cache_f32 *cross, const uint32_t *cross_lengths, float *logits, size_t ldl,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_layer_norm_f64_fn(
        size_t n_rows, size_t n, const double *x, size_t ldx, const double *gain, const double *bias, double epsilon,
        double *y, size_t ldy, double *statistics, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_layer_norm_gradient_f64_fn(
        size_t n_rows, size_t n, const double *x, size_t ldx, const double *gain, const double *statistics,
        const double *dy, size_t lddy, const double *addend, size_t lda, double *dx, size_t lddx, double *dgain,
        double *dbias, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gelu_f64_fn(
        int32_t form, size_t n, const double *x, double *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_gelu_gradient_f64_fn(
        int32_t form, size_t n, const double *x, const double *dy, double *dx, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_dropout_f64_fn(
        const uint64_t *key, uint64_t first_block, double rate, size_t n, const double *x, double *y,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_log_prob_f64_fn(
        size_t n_rows, size_t n_values, const double *logits, size_t ldl, const int32_t *target, double *log_prob,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_gradient_f64_fn(
        size_t n_rows, size_t n_values, const double *logits, size_t ldl, const int32_t *target, const double *weight,
        double *log_prob, double *dlogits, size_t ldd, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_softmax_sample_f64_fn(
        const chainrule_choice *, size_t n_rows, size_t n_values, const double *logits, size_t ldl, const double *u,
        int32_t *x, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_f64_fn(
        const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,
        const chainrule_sequences_f64 *q, const chainrule_sequences_f64 *k, const chainrule_sequences_f64 *v,
        const chainrule_sequences_f64 *y, double *statistics, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_gradient_f64_fn(
        const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,
        const chainrule_sequences_f64 *q, const chainrule_sequences_f64 *k, const chainrule_sequences_f64 *v,
        const chainrule_sequences_f64 *y, const double *statistics, const chainrule_sequences_f64 *dy,
        const chainrule_sequences_f64 *dq, const chainrule_sequences_f64 *dk, const chainrule_sequences_f64 *dv,
        const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_attention_step_f64_fn(
        const chainrule_attention *, size_t n_rows, size_t n_steps, const uint32_t *lengths,
        const chainrule_sequences_f64 *q, const chainrule_sequences_f64 *k, const chainrule_sequences_f64 *v,
        const chainrule_cache_f64 *, const chainrule_sequences_f64 *y, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_packed_linear_f64_fn(
        const chainrule_weights_f64 *, size_t n_rows, const double *x, size_t ldx, const double *addend, size_t lda,
        double *y, size_t ldy, const chainrule_exec *) noexcept nogil
    ctypedef chainrule_status chainrule_transformer_step_f64_fn(
        const chainrule_transformer_f64 *, size_t n_rows, size_t n_steps, const int32_t *tokens, size_t ldt,
        const uint32_t *lengths, const uint32_t *last, const chainrule_cache_f64 *caches,
        const chainrule_cache_f64 *cross, const uint32_t *cross_lengths, double *logits, size_t ldl,
        const chainrule_exec *) noexcept nogil
    ctypedef struct chainrule_api:
        uint32_t abi_version
        const char *version
        const char *isa
        int32_t (*get_num_threads)() noexcept nogil
        void (*set_num_threads)(int32_t n) noexcept nogil
        chainrule_uniforms_fn *uniforms
        chainrule_encode_fn *encode
        chainrule_nade_score_f32_fn *nade_score_f32
        chainrule_nade_score_f64_fn *nade_score_f64
        chainrule_nade_gradient_f32_fn *nade_gradient_f32
        chainrule_nade_gradient_f64_fn *nade_gradient_f64
        chainrule_nade_sample_f32_fn *nade_sample_f32
        chainrule_nade_sample_f64_fn *nade_sample_f64
        chainrule_bernoulli_log_prob_f32_fn *bernoulli_log_prob_f32
        chainrule_bernoulli_log_prob_f64_fn *bernoulli_log_prob_f64
        chainrule_bernoulli_sample_f32_fn *bernoulli_sample_f32
        chainrule_bernoulli_sample_f64_fn *bernoulli_sample_f64
        chainrule_optimizer_step_f32_fn *optimizer_step_f32
        chainrule_sum_squares_f32_fn *sum_squares_f32
        chainrule_optimizer_step_f64_fn *optimizer_step_f64
        chainrule_sum_squares_f64_fn *sum_squares_f64
        chainrule_map_f32_fn *map_f32
        chainrule_map_f64_fn *map_f64
        chainrule_logsumexp_f32_fn *logsumexp_f32
        chainrule_logsumexp_f64_fn *logsumexp_f64
        chainrule_bernoulli_gradient_f32_fn *bernoulli_gradient_f32
        chainrule_bernoulli_gradient_f64_fn *bernoulli_gradient_f64
        chainrule_categorical_log_prob_f32_fn *categorical_log_prob_f32
        chainrule_categorical_log_prob_f64_fn *categorical_log_prob_f64
        chainrule_categorical_gradient_f32_fn *categorical_gradient_f32
        chainrule_categorical_gradient_f64_fn *categorical_gradient_f64
        chainrule_categorical_sample_f32_fn *categorical_sample_f32
        chainrule_categorical_sample_f64_fn *categorical_sample_f64
        chainrule_nade_categorical_score_f32_fn *nade_categorical_score_f32
        chainrule_nade_categorical_score_f64_fn *nade_categorical_score_f64
        chainrule_nade_categorical_gradient_f32_fn *nade_categorical_gradient_f32
        chainrule_nade_categorical_gradient_f64_fn *nade_categorical_gradient_f64
        chainrule_nade_categorical_sample_f32_fn *nade_categorical_sample_f32
        chainrule_logistic_mixture_log_prob_f32_fn *logistic_mixture_log_prob_f32
        chainrule_logistic_mixture_gradient_f32_fn *logistic_mixture_gradient_f32
        chainrule_logistic_mixture_sample_f32_fn *logistic_mixture_sample_f32
        chainrule_nade_categorical_sample_f64_fn *nade_categorical_sample_f64
        chainrule_logistic_mixture_log_prob_f64_fn *logistic_mixture_log_prob_f64
        chainrule_logistic_mixture_gradient_f64_fn *logistic_mixture_gradient_f64
        chainrule_logistic_mixture_sample_f64_fn *logistic_mixture_sample_f64
        chainrule_masked_linear_f32_fn *masked_linear_f32
        chainrule_masked_linear_f64_fn *masked_linear_f64
        chainrule_masked_linear_input_gradient_f32_fn *masked_linear_input_gradient_f32
        chainrule_masked_linear_input_gradient_f64_fn *masked_linear_input_gradient_f64
        chainrule_masked_linear_weight_gradient_f32_fn *masked_linear_weight_gradient_f32
        chainrule_masked_linear_weight_gradient_f64_fn *masked_linear_weight_gradient_f64
        chainrule_sparse_linear_f32_fn *sparse_linear_f32
        chainrule_sparse_linear_f64_fn *sparse_linear_f64
        chainrule_sparse_linear_weight_gradient_f32_fn *sparse_linear_weight_gradient_f32
        chainrule_sparse_linear_weight_gradient_f64_fn *sparse_linear_weight_gradient_f64
        chainrule_permute_columns_f32_fn *permute_columns_f32
        chainrule_permute_columns_f64_fn *permute_columns_f64
        chainrule_masked_sample_f32_fn *masked_sample_f32
        chainrule_masked_sample_f64_fn *masked_sample_f64
        chainrule_causal_conv_f32_fn *causal_conv_f32
        chainrule_causal_conv_f64_fn *causal_conv_f64
        chainrule_causal_conv_input_gradient_f32_fn *causal_conv_input_gradient_f32
        chainrule_causal_conv_input_gradient_f64_fn *causal_conv_input_gradient_f64
        chainrule_causal_conv_weight_gradient_f32_fn *causal_conv_weight_gradient_f32
        chainrule_causal_conv_weight_gradient_f64_fn *causal_conv_weight_gradient_f64
        chainrule_gated_block_f32_fn *gated_block_f32
        chainrule_gated_block_f64_fn *gated_block_f64
        chainrule_gated_block_gradient_f32_fn *gated_block_gradient_f32
        chainrule_gated_block_gradient_f64_fn *gated_block_gradient_f64
        chainrule_embedding_f32_fn *embedding_f32
        chainrule_embedding_f64_fn *embedding_f64
        chainrule_embedding_gradient_f32_fn *embedding_gradient_f32
        chainrule_embedding_gradient_f64_fn *embedding_gradient_f64
        chainrule_wavenet_sample_f32_fn *wavenet_sample_f32
        chainrule_wavenet_sample_f64_fn *wavenet_sample_f64
        chainrule_layer_norm_f32_fn *layer_norm_f32
        chainrule_layer_norm_f64_fn *layer_norm_f64
        chainrule_layer_norm_gradient_f32_fn *layer_norm_gradient_f32
        chainrule_layer_norm_gradient_f64_fn *layer_norm_gradient_f64
        chainrule_gelu_f32_fn *gelu_f32
        chainrule_gelu_f64_fn *gelu_f64
        chainrule_gelu_gradient_f32_fn *gelu_gradient_f32
        chainrule_gelu_gradient_f64_fn *gelu_gradient_f64
        chainrule_dropout_f32_fn *dropout_f32
        chainrule_dropout_f64_fn *dropout_f64
        chainrule_softmax_log_prob_f32_fn *softmax_log_prob_f32
        chainrule_softmax_log_prob_f64_fn *softmax_log_prob_f64
        chainrule_softmax_gradient_f32_fn *softmax_gradient_f32
        chainrule_softmax_gradient_f64_fn *softmax_gradient_f64
        chainrule_softmax_sample_f32_fn *softmax_sample_f32
        chainrule_softmax_sample_f64_fn *softmax_sample_f64
        chainrule_attention_f32_fn *attention_f32
        chainrule_attention_f64_fn *attention_f64
        chainrule_attention_gradient_f32_fn *attention_gradient_f32
        chainrule_attention_gradient_f64_fn *attention_gradient_f64
        chainrule_attention_step_f32_fn *attention_step_f32
        chainrule_attention_step_f64_fn *attention_step_f64
        chainrule_packed_linear_f32_fn *packed_linear_f32
        chainrule_packed_linear_f64_fn *packed_linear_f64
        chainrule_transformer_step_f32_fn *transformer_step_f32
        chainrule_transformer_step_f64_fn *transformer_step_f64
        chainrule_masked_score_f32_fn *masked_score_f32
        chainrule_masked_score_f64_fn *masked_score_f64
        chainrule_masked_linear_step_f32_fn *masked_linear_step_f32
        chainrule_masked_linear_step_f64_fn *masked_linear_step_f64
        chainrule_sparse_linear_step_f32_fn *sparse_linear_step_f32
        chainrule_sparse_linear_step_f64_fn *sparse_linear_step_f64


# The table of kernels.
cdef const chainrule_api *api() noexcept nogil
