"""The kernels as functions on arrays, without models.

Every function takes NumPy arrays, anything with the buffer protocol, or a CPU tensor with ``__dlpack__`` (PyTorch, JAX,
CuPy on the host), reads it in place and writes into ``out=`` when given. Rows must be contiguous; nothing is converted
or copied, so a wrong dtype is an error. Parameters decide the precision: float32 or float64. ``n_threads=None`` means
`chainrule.set_num_threads`, else ``OMP_NUM_THREADS``, else the cores this process may use; results do not depend on it.

Log-likelihoods are in nats and float64.
"""

from __future__ import annotations

from chainrule.kernels.conditionals import (
    bernoulli_gradient,
    bernoulli_log_prob,
    bernoulli_sample,
    categorical_gradient,
    categorical_log_prob,
    categorical_sample,
    default_log_scale_min,
    logistic_mixture_gradient,
    logistic_mixture_log_prob,
    logistic_mixture_sample,
)
from chainrule.kernels.elementwise import (
    FUNCTIONS as FUNCTIONS,
)
from chainrule.kernels.elementwise import (
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    logsumexp,
    sigmoid,
    sin,
    softplus,
    tanh,
    uniforms,
)
from chainrule.kernels.layers import (
    FORMS as FORMS,
)
from chainrule.kernels.layers import (
    dropout,
    gelu,
    gelu_gradient,
    layer_norm,
    layer_norm_gradient,
    softmax_gradient,
    softmax_log_prob,
    softmax_sample,
)
from chainrule.kernels.masked import (
    MAX_LAYERS as MAX_LAYERS,
)
from chainrule.kernels.masked import (
    Mask,
    Network,
    Ones,
    encode,
    from_panels,
    masked_linear,
    masked_linear_input_gradient,
    masked_linear_weight_gradient,
    masked_sample,
    masked_score,
    permute_columns,
    to_panels,
)
from chainrule.kernels.nade import (
    nade_categorical_gradient,
    nade_categorical_logits,
    nade_categorical_sample,
    nade_categorical_score,
    nade_gradient,
    nade_logits,
    nade_sample,
    nade_score,
)
from chainrule.kernels.optimizer import (
    STATES as STATES,
)
from chainrule.kernels.optimizer import (
    masked_linear_step,
    optimizer_step,
    sum_squares,
)
from chainrule.kernels.transformer import (
    Cache,
    TransformerBlock,
    TransformerNetwork,
    Weights,
    attention,
    attention_gradient,
    attention_step,
    new_cache,
    pack,
    packed_linear,
    transformer_step,
)
from chainrule.kernels.views import (
    ACTIVATIONS as ACTIVATIONS,
)
from chainrule.kernels.wavenet import (
    MAX_TAPS as MAX_TAPS,
)
from chainrule.kernels.wavenet import (
    Block,
    Frames,
    causal_conv,
    causal_conv1d,
    causal_conv_input_gradient,
    causal_conv_weight_gradient,
    embedding,
    embedding_gradient,
    from_gate_panels,
    gate_panels,
    gated_block,
    gated_block_gradient,
    wavenet_sample,
)

__all__ = [
    "Block",
    "Cache",
    "Frames",
    "Mask",
    "Network",
    "Ones",
    "TransformerBlock",
    "TransformerNetwork",
    "Weights",
    "attention",
    "attention_gradient",
    "attention_step",
    "bernoulli_gradient",
    "bernoulli_log_prob",
    "bernoulli_sample",
    "categorical_gradient",
    "categorical_log_prob",
    "categorical_sample",
    "causal_conv",
    "causal_conv1d",
    "causal_conv_input_gradient",
    "causal_conv_weight_gradient",
    "cos",
    "default_log_scale_min",
    "dropout",
    "embedding",
    "embedding_gradient",
    "encode",
    "erf",
    "exp",
    "expm1",
    "from_gate_panels",
    "from_panels",
    "gate_panels",
    "gated_block",
    "gated_block_gradient",
    "gelu",
    "gelu_gradient",
    "layer_norm",
    "layer_norm_gradient",
    "log",
    "log1p",
    "logistic_mixture_gradient",
    "logistic_mixture_log_prob",
    "logistic_mixture_sample",
    "logsumexp",
    "masked_linear",
    "masked_linear_input_gradient",
    "masked_linear_step",
    "masked_linear_weight_gradient",
    "masked_sample",
    "masked_score",
    "nade_categorical_gradient",
    "nade_categorical_logits",
    "nade_categorical_sample",
    "nade_categorical_score",
    "nade_gradient",
    "nade_logits",
    "nade_sample",
    "nade_score",
    "new_cache",
    "optimizer_step",
    "pack",
    "packed_linear",
    "permute_columns",
    "sigmoid",
    "sin",
    "softmax_gradient",
    "softmax_log_prob",
    "softmax_sample",
    "softplus",
    "sum_squares",
    "tanh",
    "to_panels",
    "transformer_step",
    "uniforms",
    "wavenet_sample",
]
