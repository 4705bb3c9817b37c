"""Floor 2: differentiable operations. Each computes its value now and leaves on a tape how gradients flow back."""

from chainrule.ops.layers import arrays_of, embedding, gated_block, levels, linear, relu
from chainrule.ops.tape import Pool, Tape, Variable
from chainrule.ops.transformer import attention, cross_attention, dropout, gelu, layer_norm, tokens

__all__ = [
    "Pool",
    "Tape",
    "Variable",
    "arrays_of",
    "attention",
    "cross_attention",
    "dropout",
    "embedding",
    "gated_block",
    "gelu",
    "layer_norm",
    "levels",
    "linear",
    "relu",
    "tokens",
]
