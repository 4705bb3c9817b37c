"""Floor 2: differentiable operations. Each computes its value now and leaves on a tape how gradients flow back."""

from chainrule.ops.layers import arrays_of, embedding, gated_block, levels, linear, relu
from chainrule.ops.tape import Pool, Tape, Variable

__all__ = ["Pool", "Tape", "Variable", "arrays_of", "embedding", "gated_block", "levels", "linear", "relu"]
