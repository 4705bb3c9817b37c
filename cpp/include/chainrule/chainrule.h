/* chainrule: the C ABI of the kernels.
 *
 * One versioned table of function pointers, already dispatched to the best instruction set of this machine:
 *
 *     const chainrule_api *cr = chainrule_get_api(CHAINRULE_ABI_VERSION);
 *     if (!cr) { fprintf(stderr, "%s\n", chainrule_load_error()); exit(1); }
 *     cr->nade_score_f32(&model, n_rows, x, n_features, log_prob, NULL, NULL, NULL);
 *
 * Arrays are row-major; a leading dimension (ld...) is the number of elements from one row to the next. Log-likelihoods
 * are in nats and always double. Kernels read and write nothing but the arrays they are given, may be called from
 * several threads at once, and give the same bits for any number of threads and any instruction set
 * (docs/reproducibility.md). Arguments are not checked here: the Python doors do that. A function that returns a
 * chainrule_status leaves its outputs undefined when that is not CHAINRULE_OK.
 */
#ifndef CHAINRULE_CHAINRULE_H
#define CHAINRULE_CHAINRULE_H
#include <stddef.h>
#include <stdint.h>

#define CHAINRULE_ABI_VERSION 1

#if defined(_WIN32)
#define CHAINRULE_EXPORT __declspec(dllexport)
#else
#define CHAINRULE_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum chainrule_status {
  CHAINRULE_OK = 0,
  CHAINRULE_NO_MEMORY = 1,   /* workspace could not be allocated */
  CHAINRULE_INTERRUPTED = 2  /* the poll callback asked to stop */
} chainrule_status;

#define CHAINRULE_MAX_LAYERS 32 /* hidden layers of a chainrule_network */
#define CHAINRULE_MAX_TAPS 16   /* width of a causal convolution */

typedef enum chainrule_activation {
  CHAINRULE_SIGMOID = 0,
  CHAINRULE_RELU = 1,
  CHAINRULE_TANH = 2,
  CHAINRULE_IDENTITY = 3
} chainrule_activation;

/* Update rules of optimizer_step, and the arrays of state each needs: none, one (s) or two (s, t), zero at first. */
typedef enum chainrule_rule {
  CHAINRULE_SGD = 0,
  CHAINRULE_MOMENTUM = 1, /* s */
  CHAINRULE_NESTEROV = 2, /* s */
  CHAINRULE_ADAGRAD = 3,  /* s */
  CHAINRULE_RMSPROP = 4,  /* s */
  CHAINRULE_ADADELTA = 5, /* s, t */
  CHAINRULE_ADAM = 6      /* s, t */
} chainrule_rule;

/* A rule and its numbers, rounded to the parameters' precision where they are used; cpp/kernels/optimizer.hpp has the
 * formulas. beta1 is also the momentum, beta2 the decay of squares, correction = 1 - beta^step; weight_decay is
 * decoupled (AdamW), l2 is added to the gradient, gradient_scale multiplies it first. */
typedef struct chainrule_optimizer {
  int32_t rule; /* chainrule_rule */
  double learning_rate, beta1, beta2, correction1, correction2, epsilon;
  double weight_decay, l2, gradient_scale, average_decay;
} chainrule_optimizer;

/* Elementwise functions; range and error of each: docs/math.md. */
typedef enum chainrule_function {
  CHAINRULE_EXP = 0,
  CHAINRULE_EXPM1 = 1,
  CHAINRULE_LOG = 2,
  CHAINRULE_LOG1P = 3,
  CHAINRULE_SIGMOID_OF = 4,
  CHAINRULE_TANH_OF = 5,
  CHAINRULE_SOFTPLUS = 6,
  CHAINRULE_ERF = 7,
  CHAINRULE_SIN = 8,
  CHAINRULE_COS = 9
} chainrule_function;

/* Which weights of a matrix [n_in][n_out] are live, by panels of 32 outputs: panel p holds outputs 32 p to 32 p + 31.
 * Bit j of words[p n_in + k] is 1 where the weight from input k to output 32 p + j is live. spans holds pairs [begin, end)
 * of inputs with a live weight in a panel, ascending and disjoint; those of panel p are the pairs span_of[p] to
 * span_of[p + 1] - 1. Work is done for spans alone: for units sorted by degree they are a staircase. */
typedef struct chainrule_mask {
  const uint32_t *words, *spans, *span_of;
} chainrule_mask;

/* Rows of input given by the ascending indices of their ones: row r has the ones index[r ld], ..., count[r] of them. */
typedef struct chainrule_ones {
  size_t ld;
  const uint32_t *index, *count;
} chainrule_ones;

/* Mixtures of K = n_components logistics over the values 0..N-1, N = n_values <= 65536, of each of n_features variables.
 * Log-scales below log_scale_min, at least -40, count as log_scale_min. */
typedef struct chainrule_logistic_mixture {
  size_t n_features, n_components;
  int32_t n_values;
  double log_scale_min;
} chainrule_logistic_mixture;

/* How rows of numbers are kept: a type of their own, or one of fewer bits (for inference; outside the contract). */
typedef enum chainrule_format {
  CHAINRULE_PLAIN = 0, /* the precision of the kernel */
  CHAINRULE_BF16 = 1,  /* the upper 16 bits of a float */
  CHAINRULE_INT8 = 2   /* integers times a scale for every output and 256 inputs */
} chainrule_format;

typedef enum chainrule_gelu_form { CHAINRULE_GELU_TANH = 0, CHAINRULE_GELU_ERF = 1 } chainrule_gelu_form;

/* Attention of n_heads heads of queries, whose channels stand side by side; head h looks at the keys and values of head
 * h / (n_heads / n_kv_heads). Scores are scale * (q . k). causal: the last query is at the last key, the one before it sees
 * one key fewer. */
typedef struct chainrule_attention {
  size_t n_heads, n_kv_heads, head_size;
  double scale;
  int32_t causal;
} chainrule_attention;

/* Which token is drawn: logits are divided by temperature (0: the most likely one), then the top_k most likely stay (0: all),
 * then the smallest set of most likely tokens whose mass reaches top_p, the crossing one included (1: all). Of equal logits
 * the one with the lower index counts as more likely. */
typedef struct chainrule_choice {
  double temperature, top_p;
  uint32_t top_k;
} chainrule_choice;

/* How to run: NULL, or zeros, mean the defaults. */
typedef struct chainrule_exec {
  int32_t n_threads;       /* 0: set_num_threads, else OMP_NUM_THREADS, else the cores this process may use */
  int32_t (*poll)(void *); /* called on the calling thread every few milliseconds; non-zero stops the kernel */
  void *poll_data;
} chainrule_exec;

/* The types and kernels of one precision: T is float or double, S is f32 or f64. */
#define CHAINRULE_DECLARE(T, S)                                                                                        \
  /* NADE (Larochelle & Murray 2011): a_1 = c, a_{i+1} = a_i + y_i W_i, logit_i = b_i + V_i . g(a_i).                  \
   * W, V: [n_features][ld], b: [n_features], c: [n_hidden]; row i belongs to the i-th variable of the order, which    \
   * is column order[i] of x (NULL: column i). y_i = x XOR flip: flip [n_features] by column, 0/1 (NULL: none);        \
   * parameters live in these encoded coordinates, log-likelihoods and logits come back for x itself. */               \
  typedef struct chainrule_nade_##S {                                                                                  \
    size_t n_features, n_hidden;                                                                                       \
    const T *W, *V, *b, *c;                                                                                            \
    size_t ldw, ldv;                                                                                                   \
    int32_t activation; /* chainrule_activation */                                                                     \
    const uint32_t *order;                                                                                             \
    const uint8_t *flip;                                                                                               \
  } chainrule_nade_##S;                                                                                                \
  /* Gradient buffers of the same shapes, overwritten. V == W: tied weights, whose two gradients are added. */         \
  typedef struct chainrule_nade_gradient_##S {                                                                         \
    T *W, *V, *b, *c;                                                                                                  \
    size_t ldw, ldv;                                                                                                   \
  } chainrule_nade_gradient_##S;                                                                                       \
  /* x: [n_rows][ldx] 0/1 bytes. log_prob [n_rows], terms [n_rows][n_features] (log p(x_i | x_<i), by column) and      \
   * logits [n_rows][n_features] (of x_i = 1, by column) may each be NULL. 2 n d multiply-adds a row at most. */       \
  typedef chainrule_status chainrule_nade_score_##S##_fn(const chainrule_nade_##S *, size_t n_rows, const uint8_t *x,  \
                                                         size_t ldx, double *log_prob, double *terms, T *logits,       \
                                                         const chainrule_exec *);                                      \
  /* Gradient of -sum_r weight_r log p(x_r); weight [n_rows], NULL: 1 / n_rows. log_prob [n_rows] may be NULL. */      \
  typedef chainrule_status chainrule_nade_gradient_##S##_fn(                                                           \
      const chainrule_nade_##S *, size_t n_rows, const uint8_t *x, size_t ldx, const T *weight, double *log_prob,      \
      const chainrule_nade_gradient_##S *, const chainrule_exec *);                                                    \
  /* x_i = 1 where u >= p(x_i = 0 | x_<i). u: [n_rows][ldu] in (0, 1), column i for the i-th step of the order.        \
   * Where observed, laid out as x, is 1, x_i is read instead of drawn; NULL: nothing is observed. */                  \
  typedef chainrule_status chainrule_nade_sample_##S##_fn(const chainrule_nade_##S *, size_t n_rows, const double *u,  \
                                                          size_t ldu, const uint8_t *observed, uint8_t *x, size_t ldx, \
                                                          const chainrule_exec *);                                     \
  /* Bernoulli conditionals from logits [n_rows][ldl]: log p of x and the sampler's rule, as inside NADE. */           \
  typedef chainrule_status chainrule_bernoulli_log_prob_##S##_fn(                                                      \
      size_t n_rows, size_t n_features, const T *logits, size_t ldl, const uint8_t *x, size_t ldx, double *log_prob,   \
      double *terms, const chainrule_exec *);                                                                          \
  typedef chainrule_status chainrule_bernoulli_sample_##S##_fn(size_t n_rows, size_t n_features, const T *logits,      \
                                                               size_t ldl, const double *u, size_t ldu, uint8_t *x,    \
                                                               size_t ldx, const chainrule_exec *);                    \
  /* dlogits [n_rows][ldd] = weight_r (sigmoid(logit) - x): the gradient of -sum_r weight_r log p(x_r); weight         \
   * [n_rows], NULL: 1 / n_rows. log_prob [n_rows] may be NULL; dlogits may be logits. */                              \
  typedef chainrule_status chainrule_bernoulli_gradient_##S##_fn(                                                      \
      size_t n_rows, size_t n_features, const T *logits, size_t ldl, const uint8_t *x, size_t ldx, const T *weight,    \
      double *log_prob, T *dlogits, size_t ldd, const chainrule_exec *);                                               \
  /* Categorical conditionals: column i of x has values 0..K-1, K = first[i+1] - first[i] + 1 <= 256, and its logits   \
   * [n_rows][ldl] stand at first[i]..first[i+1]-1; first [n_features + 1] starts at 0. They speak of codes 1..K-1;    \
   * code 0 has logit 0, and code = x but for 0 and reference[i] < K, which change places (reference [n_features],     \
   * NULL: 0, nothing changes). log_prob [n_rows] and terms [n_rows][n_features] may each be NULL. */                  \
  typedef chainrule_status chainrule_categorical_log_prob_##S##_fn(                                                    \
      size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const T *logits, size_t ldl,  \
      const uint8_t *x, size_t ldx, double *log_prob, double *terms, const chainrule_exec *);                          \
  /* dlogits = weight_r (softmax - one-hot), as bernoulli_gradient. */                                                 \
  typedef chainrule_status chainrule_categorical_gradient_##S##_fn(                                                    \
      size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const T *logits, size_t ldl,  \
      const uint8_t *x, size_t ldx, const T *weight, double *log_prob, T *dlogits, size_t ldd,                         \
      const chainrule_exec *);                                                                                         \
  /* x_i = the smallest value v with u < p(x_i <= v). u: [n_rows][ldu] in (0, 1). */                                   \
  typedef chainrule_status chainrule_categorical_sample_##S##_fn(                                                      \
      size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference, const T *logits, size_t ldl,  \
      const double *u, size_t ldu, uint8_t *x, size_t ldx, const chainrule_exec *);                                    \
  /* One step of a rule on flat arrays of n; average [n] follows the parameters, NULL: none. live: n_live ascending    \
   * pairs [begin, end) of the elements that move, NULL: all do (the others keep parameter, state and average). */     \
  typedef chainrule_status chainrule_optimizer_step_##S##_fn(const chainrule_optimizer *, size_t n, T *parameters,     \
                                                             const T *gradient, T *s, T *t, T *average, size_t n_live, \
                                                             const uint64_t *live, const chainrule_exec *);            \
  /* sum = the sum of squares of n elements, in double. */                                                             \
  typedef chainrule_status chainrule_sum_squares_##S##_fn(size_t n, const T *x, double *sum, const chainrule_exec *);  \
  /* y = f(x), n elements; y may be x. */                                                                              \
  typedef chainrule_status chainrule_map_##S##_fn(int32_t function, size_t n, const T *x, T *y,                        \
                                                  const chainrule_exec *);                                             \
  /* A masked matrix. The weight from input k to output o is W[(o / 32) panel + k ldw + o % 32]: panel = 32 is a plain \
   * row-major matrix [n_in][ldw]; ldw = 32 and panel >= 32 n_in keeps each panel of 32 outputs in one piece, padded to\
   * whole panels, which is how models keep theirs (nothing needs packing). mask NULL: all weights are live; transposed\
   * is the mask of the transpose, [n_out][n_in], and serves the gradient to the input. Masks whose units stand in another\
   * order may share a matrix: turned, W is kept as its transpose, [n_out][n_in] in all this; row k of what is kept stands\
   * at row rows[k] (NULL: k); whole, a gradient is written whole, zeros where no weight is live. Sparse products take no\
   * turned matrix, masked_sample neither that nor rows. */                                                            \
  typedef struct chainrule_linear_##S {                                                                                \
    size_t n_in, n_out;                                                                                                \
    const T *W;                                                                                                        \
    size_t ldw, panel;                                                                                                 \
    const chainrule_mask *mask, *transposed;                                                                           \
    const uint32_t *rows;                                                                                              \
    int32_t turned, whole;                                                                                             \
  } chainrule_linear_##S;                                                                                              \
  /* y = g((x W + addend) + b), x [n_rows][ldx], y [n_rows][ldy]; addend [n_rows][lda] and b [n_out] may be NULL. y    \
   * overlaps neither x nor addend: sums of chunks wait in it. */                                                      \
  typedef chainrule_status chainrule_masked_linear_##S##_fn(                                                           \
      const chainrule_linear_##S *, size_t n_rows, const T *x, size_t ldx, const T *addend, size_t lda, const T *b,    \
      int32_t activation, T *y, size_t ldy, const chainrule_exec *);                                                   \
  /* dx = (dy W' + addend) g'(h), g' in terms of h = g(a) [n_rows][ldh]; addend and h may be NULL. dx overlaps none. */\
  typedef chainrule_status chainrule_masked_linear_input_gradient_##S##_fn(                                            \
      const chainrule_linear_##S *, size_t n_rows, const T *dy, size_t lddy, const T *addend, size_t lda, const T *h,  \
      size_t ldh, int32_t activation, T *dx, size_t lddx, const chainrule_exec *);                                     \
  /* dW = x' dy, live weights alone (the others are left as they are), laid out as linear->W; db [n_out] = the sum of dy\
   * over rows, may be NULL. linear->W is not read. */                                                                 \
  typedef chainrule_status chainrule_masked_linear_weight_gradient_##S##_fn(                                           \
      const chainrule_linear_##S *, size_t n_rows, const T *x, size_t ldx, const T *dy, size_t lddy, T *dW, T *db,     \
      const chainrule_exec *);                                                                                         \
  /* A step of a rule (optimizer_step) by that gradient, which is not written: live weights alone, their states and    \
   * average, all of them in panels as linear->W, which is not read; linear has neither rows nor turned. db as above. */\
  typedef chainrule_status chainrule_masked_linear_step_##S##_fn(                                                      \
      const chainrule_optimizer *, const chainrule_linear_##S *, size_t n_rows, const T *x, size_t ldx, const T *dy,   \
      size_t lddy, T *parameters, T *s, T *t, T *average, T *db, const chainrule_exec *);                              \
  /* masked_linear, and its weight gradient, of an input of zeros and ones: sums of rows of W. */                      \
  typedef chainrule_status chainrule_sparse_linear_##S##_fn(const chainrule_linear_##S *, size_t n_rows,               \
                                                            const chainrule_ones *x, const T *addend, size_t lda,      \
                                                            const T *b, int32_t activation, T *y, size_t ldy,          \
                                                            const chainrule_exec *);                                   \
  typedef chainrule_status chainrule_sparse_linear_weight_gradient_##S##_fn(                                           \
      const chainrule_linear_##S *, size_t n_rows, const chainrule_ones *x, const T *dy, size_t lddy, T *dW, T *db,    \
      const chainrule_exec *);                                                                                         \
  /* masked_linear_step of such an input. */                                                                           \
  typedef chainrule_status chainrule_sparse_linear_step_##S##_fn(                                                      \
      const chainrule_optimizer *, const chainrule_linear_##S *, size_t n_rows, const chainrule_ones *x, const T *dy,  \
      size_t lddy, T *parameters, T *s, T *t, T *average, T *db, const chainrule_exec *);                              \
  /* Columns of a matrix as it is kept, in panels, under a permutation; mask, rows and turned are those of the permuted\
   * one: out[r][j] = W[r][columns[j]] for the panels' rows with a live weight (the others are left as they are), and  \
   * back, out[r][columns[j]] = W[r][j] where live, 0 elsewhere. out is laid out as W and may be W. */                 \
  typedef chainrule_status chainrule_permute_columns_##S##_fn(const chainrule_linear_##S *, const uint32_t *columns,   \
                                                              int32_t back, T *out, const chainrule_exec *);           \
  /* A layer of hidden units, h = g((input W + addend) + b) [+ h of the layer before, residual]. ready [n_out],        \
   * non-decreasing: the last variable of the chain a unit depends on, -1: none. addend [n_rows][lda] may be NULL. */  \
  typedef struct chainrule_layer_##S {                                                                                 \
    chainrule_linear_##S linear;                                                                                       \
    const T *b, *addend;                                                                                               \
    size_t lda;                                                                                                        \
    int32_t activation, residual;                                                                                      \
    const int32_t *ready;                                                                                              \
  } chainrule_layer_##S;                                                                                               \
  /* An autoregressive network on codes: logits = (h_L W + (x A + addend)) + b with h_L of the last of n_layers hidden \
   * layers (output.linear, absent when n_layers = 0) and direct weights A (direct.W NULL: none). Variable i of the chain\
   * is column order[i] (NULL: i) and takes the values 0 to first[i + 1] - first[i]; its value v > 0 is input unit, and\
   * logit, number first[i] + v - 1, value 0 is none, logit 0. first NULL: bits. reference [n_features], by column, NULL:\
   * zeros: the value that is exchanged with 0 before all this. */                                                     \
  typedef struct chainrule_network_##S {                                                                               \
    size_t n_features, n_layers;                                                                                       \
    const uint32_t *order, *first;                                                                                     \
    const uint8_t *reference;                                                                                          \
    const chainrule_layer_##S *hidden;                                                                                 \
    chainrule_layer_##S output;                                                                                        \
    chainrule_linear_##S direct;                                                                                       \
  } chainrule_network_##S;                                                                                             \
  /* Rows drawn from u [n_rows][ldu], column i for the i-th step of the chain; observed as in nade_sample. Each unit is\
   * computed once: the work of one masked_linear through the network. */                                              \
  typedef chainrule_status chainrule_masked_sample_##S##_fn(                                                           \
      const chainrule_network_##S *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed, uint8_t *x,  \
      size_t ldx, const chainrule_exec *);                                                                             \
  /* log p of the rows x [n_rows][ldx]: log_prob [n_rows], or NULL; terms [n_rows][n_features] by step of the chain, or NULL.\
   * The bits of encode, sparse_linear, masked_linear and bernoulli_log_prob (categorical_log_prob). */               \
  typedef chainrule_status chainrule_masked_score_##S##_fn(                                                            \
      const chainrule_network_##S *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob, double *terms,     \
      const chainrule_exec *);                                                                                         \
  /* NADE on columns of 0..K-1: logits z_{i,v} = b_k + V_k . g(a_i) for the codes v = 1..K_i - 1, k = first[i] + v - 1;\
   * a_{i+1} = a_i + W_k for the code y_i > 0. W, V: [first[n_features]][ld], b: [first[n_features]]; first            \
   * [n_features + 1], by step: units before each variable of the order, 0 first, K_i = first[i+1] - first[i] + 1 <= 256.\
   * Codes are as in categorical_log_prob, reference [n_features] by column (NULL: 0). Two values each: nade. */       \
  typedef struct chainrule_nade_categorical_##S {                                                                      \
    size_t n_features, n_hidden;                                                                                       \
    const T *W, *V, *b, *c;                                                                                            \
    size_t ldw, ldv;                                                                                                   \
    int32_t activation; /* chainrule_activation */                                                                     \
    const uint32_t *order, *first;                                                                                     \
    const uint8_t *reference;                                                                                          \
  } chainrule_nade_categorical_##S;                                                                                    \
  /* As nade_score; logits [n_rows][first[n_features]] stand column after column, each by code. */                     \
  typedef chainrule_status chainrule_nade_categorical_score_##S##_fn(                                                  \
      const chainrule_nade_categorical_##S *, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob,           \
      double *terms, T *logits, const chainrule_exec *);                                                               \
  /* As nade_gradient, gradient buffers of the shapes above. */                                                        \
  typedef chainrule_status chainrule_nade_categorical_gradient_##S##_fn(                                               \
      const chainrule_nade_categorical_##S *, size_t n_rows, const uint8_t *x, size_t ldx, const T *weight,            \
      double *log_prob, const chainrule_nade_gradient_##S *, const chainrule_exec *);                                  \
  /* As nade_sample, x_i = F^-1(u_i) as categorical_sample. */                                                         \
  typedef chainrule_status chainrule_nade_categorical_sample_##S##_fn(                                                 \
      const chainrule_nade_categorical_##S *, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,     \
      uint8_t *x, size_t ldx, const chainrule_exec *);                                                                 \
  /* Activations in time: step t of sequence r stands at data + r row + t ld. */                                       \
  typedef struct chainrule_sequences_##S {                                                                             \
    T *data;                                                                                                           \
    size_t row, ld;                                                                                                    \
  } chainrule_sequences_##S;                                                                                           \
  /* A dilated causal convolution: linear has width * channels inputs, tap by tap, the oldest first, no mask, and      \
   * stands in panels (ldw = 32). */                                                                                   \
  typedef struct chainrule_conv_##S {                                                                                  \
    chainrule_linear_##S linear;                                                                                       \
    size_t width, dilation;                                                                                            \
  } chainrule_conv_##S;                                                                                                \
  /* y_t = g(sum_k x_{t + k dilation} W_k + b) for n_steps steps; x has (width - 1) dilation steps more than y, in     \
   * front. b may be NULL. width <= CHAINRULE_MAX_TAPS. */                                                             \
  typedef chainrule_status chainrule_causal_conv_##S##_fn(const chainrule_conv_##S *, size_t n_rows, size_t n_steps,   \
                                                          const chainrule_sequences_##S *x, const T *b,                \
                                                          int32_t activation, const chainrule_sequences_##S *y,        \
                                                          const chainrule_exec *);                                     \
  /* dx, of all steps of x; addend, of n_steps steps, is added to the last ones (NULL: nothing is). */                 \
  typedef chainrule_status chainrule_causal_conv_input_gradient_##S##_fn(                                              \
      const chainrule_conv_##S *, size_t n_rows, size_t n_steps, const chainrule_sequences_##S *dy,                    \
      const chainrule_sequences_##S *addend, const chainrule_sequences_##S *dx, const chainrule_exec *);               \
  /* dW laid out as linear.W, which is not read, and db [n_out], which may be NULL. */                                 \
  typedef chainrule_status chainrule_causal_conv_weight_gradient_##S##_fn(                                             \
      const chainrule_conv_##S *, size_t n_rows, size_t n_steps, const chainrule_sequences_##S *x,                     \
      const chainrule_sequences_##S *dy, T *dW, T *db, const chainrule_exec *);                                        \
  /* WaveNet's block: z = conv(x) + b, u = tanh(z's filter) sigmoid(z's gate), residual and skip. W [P][width          \
   * channels][32], P = ceil(channels / 16), tap by tap: panel p has the filters of units 16 p to 16 p + 15, then their\
   * gates; b [P][32] alike. residual and skip: matrices of n_channels inputs in panels, each panel after the other;   \
   * the residual is NULL in a last block. */                                                                          \
  typedef struct chainrule_gated_block_##S {                                                                           \
    size_t n_channels, n_skip, width, dilation;                                                                        \
    const T *W, *b, *residual, *residual_bias, *skip, *skip_bias;                                                      \
  } chainrule_gated_block_##S;                                                                                         \
  typedef struct chainrule_gated_block_gradient_##S {                                                                  \
    T *W, *b, *residual, *residual_bias, *skip, *skip_bias;                                                            \
  } chainrule_gated_block_gradient_##S;                                                                                \
  /* Context of z [P][32] by frames: step t of sequence r has frame (t + phase) / hop, at data + r row + frame ld. */  \
  typedef struct chainrule_frames_##S {                                                                                \
    T *data;                                                                                                           \
    size_t row, ld, hop, phase;                                                                                        \
  } chainrule_frames_##S;                                                                                              \
  /* n_steps steps of a block: y (NULL: none) of n_steps, skip (NULL: none) of the last n_skip_steps, where it is added\
   * unless first. gates (NULL: not wanted) of n_steps gets tanh and sigmoid, [P][32] a step. start [n_rows]: the steps\
   * before which a sequence does not exist: y is zero there (NULL: 0). frames may be NULL. */                         \
  typedef chainrule_status chainrule_gated_block_##S##_fn(                                                             \
      const chainrule_gated_block_##S *, size_t n_rows, size_t n_steps, size_t n_skip_steps, const uint32_t *start,    \
      const chainrule_sequences_##S *x, const chainrule_frames_##S *frames, const chainrule_sequences_##S *y,          \
      const chainrule_sequences_##S *skip, int32_t first, const chainrule_sequences_##S *gates,                        \
      const chainrule_exec *);                                                                                         \
  /* Its gradients, overwritten: of all parameters, of the frames' context (NULL: not wanted) and of x (NULL: not      \
   * wanted), from those of y (NULL: a last block) and skip. gates become the gradient of z. */                        \
  typedef chainrule_status chainrule_gated_block_gradient_##S##_fn(                                                    \
      const chainrule_gated_block_##S *, size_t n_rows, size_t n_steps, size_t n_skip_steps, const uint32_t *start,    \
      const chainrule_sequences_##S *x, const chainrule_sequences_##S *gates, const chainrule_sequences_##S *dy,       \
      const chainrule_sequences_##S *dskip, const chainrule_gated_block_gradient_##S *,                                \
      const chainrule_frames_##S *dframes, const chainrule_sequences_##S *dx, const chainrule_exec *);                 \
  /* y_n = E[index_n], zeros where index_n < 0. E: [n_values] rows of n_out in panels of 32; turned: in panels of 32 values,\
   * [ceil(n_values / 32)][n_out][32], as the output matrix of logits is kept. */                                      \
  typedef chainrule_status chainrule_embedding_##S##_fn(size_t n_values, size_t n_out, int32_t turned, const T *E,     \
                                                        size_t n_rows, const int32_t *index, T *y, size_t ldy,         \
                                                        const chainrule_exec *);                                       \
  typedef chainrule_status chainrule_embedding_gradient_##S##_fn(size_t n_values, size_t n_out, int32_t turned,        \
                                                                 size_t n_rows, const int32_t *index, const T *dy,     \
                                                                 size_t lddy, T *dE, const chainrule_exec *);          \
  /* A WaveNet: the input, its blocks, and parameters = relu(relu(skip) head + head_bias) output + output_bias of the  \
   * conditional. n_components = 0: codes 0 .. n_values - 1 <= 255, input is their embedding, [n_values] rows in       \
   * panels, and the conditional is categorical, n_parameters = n_values - 1 logits, 0 for code 0. Else levels 0 ..    \
   * n_values - 1: the input is v input + input_bias, v = (2 level - (n_values - 1)) / (n_values - 1), and the         \
   * conditional a mixture as in logistic_mixture_log_prob, n_parameters = 3 n_components. Logits are divided, scales  \
   * multiplied by temperature. */                                                                                     \
  typedef struct chainrule_wavenet_##S {                                                                               \
    size_t n_blocks, n_values, n_components, n_parameters;                                                             \
    const chainrule_gated_block_##S *blocks;                                                                           \
    const T *input, *input_bias, *head, *head_bias, *output, *output_bias;                                             \
    double log_scale_min, temperature;                                                                                 \
  } chainrule_wavenet_##S;                                                                                             \
  /* n_steps values x [n_rows][ldx] from uniforms u [n_rows][ldu], after previous [n_rows] (-1: the start). state holds\
   * the last H = (width - 1) dilation inputs of every block, [H][n_rows][n_channels] one block after the other, as    \
   * rings: input t stands at t % H, and `taken` steps went before this call. frames, one a block, may be NULL. */     \
  typedef chainrule_status chainrule_wavenet_sample_##S##_fn(                                                          \
      const chainrule_wavenet_##S *, size_t n_rows, size_t n_steps, const double *u, size_t ldu,                       \
      const int32_t *previous, T *state, uint64_t taken, const chainrule_frames_##S *frames, int32_t *x, size_t ldx,   \
      const chainrule_exec *);                                                                                         \
  /* Discretized mixtures of logistics (Salimans et al. 2017). parameters [n_rows][ldp], variable i's 3 K at 3 K i: K  \
   * logits, K means, K log-scales, of levels on [-1, 1]: value v lies at (2 v - (N - 1)) / (N - 1), half a bin is     \
   * 1 / (N - 1). log p = log sum_k softmax_k mass_k, mass = sigmoid at the bin's upper edge less that at its lower,   \
   * (edge - mean) / scale, without the missing edge of 0 and N - 1; exact in the tails and at any scale. x [n_rows][ldx].\
   * log_prob [n_rows] and terms [n_rows][n_features] may each be NULL. N = 1 is certain, whatever its parameters. */  \
  typedef chainrule_status chainrule_logistic_mixture_log_prob_##S##_fn(                                               \
      const chainrule_logistic_mixture *, size_t n_rows, const T *parameters, size_t ldp, const int32_t *x, size_t ldx,\
      double *log_prob, double *terms, const chainrule_exec *);                                                        \
  /* dparameters [n_rows][ldd]: the gradient of -sum_r weight_r log p(x_r), as categorical_gradient; a log-scale below \
   * log_scale_min has none. dparameters may be parameters. */                                                         \
  typedef chainrule_status chainrule_logistic_mixture_gradient_##S##_fn(                                               \
      const chainrule_logistic_mixture *, size_t n_rows, const T *parameters, size_t ldp, const int32_t *x, size_t ldx,\
      const T *weight, double *log_prob, T *dparameters, size_t ldd, const chainrule_exec *);                          \
  /* x_i = the smallest value v with u < F(v) = sum_k softmax_k sigmoid((v's upper edge - mean) / scale), F(N - 1) = 1, in\
   * double. u: [n_rows][ldu] in (0, 1). */                                                                            \
  typedef chainrule_status chainrule_logistic_mixture_sample_##S##_fn(                                                 \
      const chainrule_logistic_mixture *, size_t n_rows, const T *parameters, size_t ldp, const double *u, size_t ldu, \
      int32_t *x, size_t ldx, const chainrule_exec *);                                                                 \
  /* y = (x - mean) / sqrt(variance + epsilon) gain + bias, of n_rows rows of n; statistics [n_rows][2] gets mean and  \
   * 1 / sqrt(variance + epsilon) (NULL: not wanted). y may be x. */                                                   \
  typedef chainrule_status chainrule_layer_norm_##S##_fn(size_t n_rows, size_t n, const T *x, size_t ldx, const T *gain,\
                                                         const T *bias, double epsilon, T *y, size_t ldy, T *statistics,\
                                                         const chainrule_exec *);                                      \
  /* dx = addend + the gradient by x (addend NULL: without), dx may be addend or dy; dgain, dbias [n]. */              \
  typedef chainrule_status chainrule_layer_norm_gradient_##S##_fn(                                                     \
      size_t n_rows, size_t n, const T *x, size_t ldx, const T *gain, const T *statistics, const T *dy, size_t lddy,   \
      const T *addend, size_t lda, T *dx, size_t lddx, T *dgain, T *dbias, const chainrule_exec *);                    \
  /* y = x Phi(x): form CHAINRULE_GELU_ERF exactly, CHAINRULE_GELU_TANH 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).\
   * y may be x; dx may be dy. */                                                                                      \
  typedef chainrule_status chainrule_gelu_##S##_fn(int32_t form, size_t n, const T *x, T *y, const chainrule_exec *);  \
  typedef chainrule_status chainrule_gelu_gradient_##S##_fn(int32_t form, size_t n, const T *x, const T *dy, T *dx,    \
                                                            const chainrule_exec *);                                   \
  /* y_i = x_i / (1 - rate), or 0 with probability rate: where 16 bits are below round(rate 65536). The bits of element i are\
   * number i of those of the words of chainrule_uniforms from first_block on, the low ones of a word first. y may be x. */\
  typedef chainrule_status chainrule_dropout_##S##_fn(const uint64_t key[2], uint64_t first_block, double rate, size_t n,\
                                                      const T *x, T *y, const chainrule_exec *);                       \
  /* log p(target_r) = z_target - log sum_v exp z_v, a logit for every value: logits [n_rows][ldl], target [n_rows] in \
   * 0 .. n_values - 1. */                                                                                             \
  typedef chainrule_status chainrule_softmax_log_prob_##S##_fn(size_t n_rows, size_t n_values, const T *logits, size_t ldl,\
                                                               const int32_t *target, double *log_prob,                \
                                                               const chainrule_exec *);                                \
  /* dlogits = weight_r (softmax - one-hot): the gradient of -sum_r weight_r log p(target_r), NULL: 1 / n_rows; a row of\
   * weight 0 gets zeros. log_prob [n_rows] may be NULL; dlogits may be logits. */                                     \
  typedef chainrule_status chainrule_softmax_gradient_##S##_fn(size_t n_rows, size_t n_values, const T *logits, size_t ldl,\
                                                               const int32_t *target, const T *weight, double *log_prob,\
                                                               T *dlogits, size_t ldd, const chainrule_exec *);        \
  /* A value of each row from u [n_rows] in (0, 1): the smallest v with u < p(value <= v), among those that stay. */   \
  typedef chainrule_status chainrule_softmax_sample_##S##_fn(const chainrule_choice *, size_t n_rows, size_t n_values, \
                                                             const T *logits, size_t ldl, const double *u, int32_t *x, \
                                                             const chainrule_exec *);                                  \
  /* y_i = sum_j softmax_j(scale q_i . k_j) v_j. n_queries steps of q and y, n_keys of k and v; sequence r has the first\
   * lengths[r] keys (NULL: n_keys), others are never read into a result. A query without keys gets zeros. statistics  \
   * [n_rows][n_heads][n_queries] gets log sum_j exp (NULL: not wanted). */                                            \
  typedef chainrule_status chainrule_attention_##S##_fn(                                                               \
      const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,            \
      const chainrule_sequences_##S *q, const chainrule_sequences_##S *k, const chainrule_sequences_##S *v,            \
      const chainrule_sequences_##S *y, T *statistics, const chainrule_exec *);                                        \
  /* Its gradients, overwritten: of q, of all n_keys of k and v. */                                                    \
  typedef chainrule_status chainrule_attention_gradient_##S##_fn(                                                      \
      const chainrule_attention *, size_t n_rows, size_t n_queries, size_t n_keys, const uint32_t *lengths,            \
      const chainrule_sequences_##S *q, const chainrule_sequences_##S *k, const chainrule_sequences_##S *v,            \
      const chainrule_sequences_##S *y, const T *statistics, const chainrule_sequences_##S *dy,                        \
      const chainrule_sequences_##S *dq, const chainrule_sequences_##S *dk, const chainrule_sequences_##S *dv,         \
      const chainrule_exec *);                                                                                         \
  /* Keys and values that are kept: keys [n_rows][n_kv_heads][ceil(capacity / 32)][head_size][32], in panels of 32 steps;\
   * values [n_rows][n_kv_heads][capacity][head_size rounded up to 32]. */                                             \
  typedef struct chainrule_cache_##S {                                                                                 \
    T *keys, *values;                                                                                                  \
    size_t capacity;                                                                                                   \
  } chainrule_cache_##S;                                                                                               \
  /* n_steps new steps after the lengths[r] that are kept of each sequence: k and v (NULL: none) are appended, then the new\
   * queries attend to what is kept, causally or to all of it. The rows of y are those of chainrule_attention, bit for bit. */\
  typedef chainrule_status chainrule_attention_step_##S##_fn(                                                          \
      const chainrule_attention *, size_t n_rows, size_t n_steps, const uint32_t *lengths, const chainrule_sequences_##S *q,\
      const chainrule_sequences_##S *k, const chainrule_sequences_##S *v, const chainrule_cache_##S *,                 \
      const chainrule_sequences_##S *y, const chainrule_exec *);                                                       \
  /* A matrix in panels of 32 outputs, [ceil(n_out / 32)][n_in][32] numbers of a chainrule_format, and a bias [n_out]  \
   * (NULL: none). scale, of CHAINRULE_INT8: [ceil(n_out / 32)][ceil(n_in / 256)][32]. */                              \
  typedef struct chainrule_weights_##S {                                                                               \
    size_t n_in, n_out;                                                                                                \
    int32_t format;                                                                                                    \
    const void *W;                                                                                                     \
    const float *scale;                                                                                                \
    const T *b;                                                                                                        \
  } chainrule_weights_##S;                                                                                             \
  /* y = (x W + addend) + b; addend may be NULL. With plain weights the bits of masked_linear. */                      \
  typedef chainrule_status chainrule_packed_linear_##S##_fn(const chainrule_weights_##S *, size_t n_rows, const T *x,  \
                                                            size_t ldx, const T *addend, size_t lda, T *y, size_t ldy, \
                                                            const chainrule_exec *);                                   \
  /* A block of a Transformer: sublayers f with their norms, x + f(norm(x)), or norm(x + f(x)) with post_norm.         \
   * query_key_value has the queries, the keys and the values side by side. cross_query.W NULL: no cross-attention. */ \
  typedef struct chainrule_transformer_block_##S {                                                                     \
    const T *norm_gain, *norm_bias, *cross_norm_gain, *cross_norm_bias, *mlp_norm_gain, *mlp_norm_bias;                \
    chainrule_weights_##S query_key_value, projection, cross_query, cross_projection, up, down;                        \
  } chainrule_transformer_block_##S;                                                                                   \
  /* x_t = token_t + position_t; blocks; the last norm (gain NULL: none); logits = x output. activation of the hidden units:\
   * a chainrule_activation, or -1 - form of a chainrule_gelu_form. token is the table in panels of 32 values, [ceil(n_values\
   * / 32)][width][32]; output, of logits or other parameters, may be the same. position [..][width]. */               \
  typedef struct chainrule_transformer_##S {                                                                           \
    size_t n_blocks, width, n_values;                                                                                  \
    chainrule_attention attention;                                                                                     \
    int32_t post_norm, activation;                                                                                     \
    double epsilon;                                                                                                    \
    chainrule_weights_##S token, output;                                                                               \
    const T *position;                                                                                                 \
    const chainrule_transformer_block_##S *blocks;                                                                     \
    const T *norm_gain, *norm_bias;                                                                                    \
  } chainrule_transformer_##S;                                                                                         \
  /* n_steps new tokens (negative: none, zeros in its place) of each sequence after the lengths[r] that caches, one a block,\
   * keep. logits, [..][output.n_out]: of step last[r] of each of the n_rows sequences, or of all n_rows n_steps, where last\
   * is NULL; logits may be NULL. cross, one a block, with cross_lengths [n_rows]: what cross-attention looks at. */   \
  typedef chainrule_status chainrule_transformer_step_##S##_fn(                                                        \
      const chainrule_transformer_##S *, size_t n_rows, size_t n_steps, const int32_t *tokens, size_t ldt,             \
      const uint32_t *lengths, const uint32_t *last, const chainrule_cache_##S *caches, const chainrule_cache_##S *cross,\
      const uint32_t *cross_lengths, T *logits, size_t ldl, const chainrule_exec *);                                   \
  /* y[r] = log sum_k exp x[r][k]; -inf for rows of -inf and for n_columns = 0. */                                     \
  typedef chainrule_status chainrule_logsumexp_##S##_fn(size_t n_rows, size_t n_columns, const T *x, size_t ldx, T *y, \
                                                        const chainrule_exec *);

CHAINRULE_DECLARE(float, f32)
CHAINRULE_DECLARE(double, f64)
#undef CHAINRULE_DECLARE

/* n uniforms in (0, 1): ((w >> 12) + 0.5) 2^-52 of raw words w number 4 first_block ... 4 first_block + n - 1 of
 * Philox4x64-10 with this key, the words of numpy.random.Philox(key=key).random_raw(). */
typedef chainrule_status chainrule_uniforms_fn(const uint64_t key[2], uint64_t first_block, size_t n, double *u,
                                               const chainrule_exec *);

/* Codes of rows in chain order, and the ones they make. y [n_rows][ldy]: y[r][i] = x[r][order[i]] with the values 0 and
 * reference[order[i]] exchanged; order, reference, first as in chainrule_network. index [n_rows][ldi] and count [n_rows]
 * (see chainrule_ones; index NULL: not wanted; ldi >= n_features) get the units of the values > 0: first[i] + y - 1.
 * index is written past a row's count too, up to n_features. */
typedef chainrule_status chainrule_encode_fn(size_t n_rows, size_t n_features, const uint8_t *x, size_t ldx,
                                             const uint32_t *order, const uint8_t *reference, const uint32_t *first,
                                             uint8_t *y, size_t ldy, uint32_t *index, size_t ldi, uint32_t *count,
                                             const chainrule_exec *);

/* Every kernel, once: K(name, suffix of its type). The table below and its dispatch are made from this list. */
#define CHAINRULE_KERNELS(K)                                                  \
  K(nade_score, f32) K(nade_score, f64)                                       \
  K(nade_gradient, f32) K(nade_gradient, f64)                                 \
  K(nade_sample, f32) K(nade_sample, f64)                                     \
  K(bernoulli_log_prob, f32) K(bernoulli_log_prob, f64)                       \
  K(bernoulli_sample, f32) K(bernoulli_sample, f64)                           \
  K(optimizer_step, f32) K(optimizer_step, f64)                               \
  K(sum_squares, f32) K(sum_squares, f64)                                     \
  K(map, f32) K(map, f64)                                                     \
  K(logsumexp, f32) K(logsumexp, f64)                                         \
  K(bernoulli_gradient, f32) K(bernoulli_gradient, f64)                       \
  K(categorical_log_prob, f32) K(categorical_log_prob, f64)                   \
  K(categorical_gradient, f32) K(categorical_gradient, f64)                   \
  K(categorical_sample, f32) K(categorical_sample, f64)                       \
  K(masked_linear, f32) K(masked_linear, f64)                                 \
  K(masked_linear_input_gradient, f32) K(masked_linear_input_gradient, f64)   \
  K(masked_linear_weight_gradient, f32) K(masked_linear_weight_gradient, f64) \
  K(sparse_linear, f32) K(sparse_linear, f64)                                 \
  K(sparse_linear_weight_gradient, f32) K(sparse_linear_weight_gradient, f64) \
  K(permute_columns, f32) K(permute_columns, f64)                             \
  K(masked_sample, f32) K(masked_sample, f64)                                 \
  K(nade_categorical_score, f32) K(nade_categorical_score, f64)               \
  K(nade_categorical_gradient, f32) K(nade_categorical_gradient, f64)         \
  K(nade_categorical_sample, f32) K(nade_categorical_sample, f64)             \
  K(causal_conv, f32) K(causal_conv, f64)                                     \
  K(causal_conv_input_gradient, f32) K(causal_conv_input_gradient, f64)       \
  K(causal_conv_weight_gradient, f32) K(causal_conv_weight_gradient, f64)     \
  K(gated_block, f32) K(gated_block, f64)                                     \
  K(gated_block_gradient, f32) K(gated_block_gradient, f64)                   \
  K(embedding, f32) K(embedding, f64)                                         \
  K(embedding_gradient, f32) K(embedding_gradient, f64)                       \
  K(wavenet_sample, f32) K(wavenet_sample, f64)                               \
  K(logistic_mixture_log_prob, f32) K(logistic_mixture_log_prob, f64)         \
  K(logistic_mixture_gradient, f32) K(logistic_mixture_gradient, f64)         \
  K(logistic_mixture_sample, f32) K(logistic_mixture_sample, f64)             \
  K(layer_norm, f32) K(layer_norm, f64)                                       \
  K(layer_norm_gradient, f32) K(layer_norm_gradient, f64)                     \
  K(gelu, f32) K(gelu, f64)                                                   \
  K(gelu_gradient, f32) K(gelu_gradient, f64)                                 \
  K(dropout, f32) K(dropout, f64)                                             \
  K(softmax_log_prob, f32) K(softmax_log_prob, f64)                           \
  K(softmax_gradient, f32) K(softmax_gradient, f64)                           \
  K(softmax_sample, f32) K(softmax_sample, f64)                               \
  K(attention, f32) K(attention, f64)                                         \
  K(attention_gradient, f32) K(attention_gradient, f64)                       \
  K(attention_step, f32) K(attention_step, f64)                               \
  K(packed_linear, f32) K(packed_linear, f64)                                 \
  K(transformer_step, f32) K(transformer_step, f64)                           \
  K(masked_score, f32) K(masked_score, f64)                                   \
  K(masked_linear_step, f32) K(masked_linear_step, f64)                       \
  K(sparse_linear_step, f32) K(sparse_linear_step, f64)

typedef struct chainrule_api {
  uint32_t abi_version;
  uint32_t struct_size;
  const char *version;                    /* of the package */
  const char *isa;                        /* "avx2", "avx512" or "neon" */
  int32_t (*get_num_threads)(void);       /* what n_threads = 0 means now */
  void (*set_num_threads)(int32_t n);     /* for the whole process; 0 gives the default back */
  chainrule_uniforms_fn *uniforms;
  chainrule_encode_fn *encode;
#define CHAINRULE_MEMBER(name, S) chainrule_##name##_##S##_fn *name##_##S;
  CHAINRULE_KERNELS(CHAINRULE_MEMBER)
#undef CHAINRULE_MEMBER
} chainrule_api;

/* NULL when this library offers another ABI version, the CPU is too old, or CHAINRULE_ISA cannot be had. */
CHAINRULE_EXPORT const chainrule_api *chainrule_get_api(uint32_t abi_version);
/* Why chainrule_get_api returned NULL: one sentence. */
CHAINRULE_EXPORT const char *chainrule_load_error(void);

#ifdef __cplusplus
}
#endif
#endif
