"""WaveNet's generation in PyTorch, eager and in TorchScript.

A step is a chain of small operations, and a loop in Python adds to each.
"""

from typing import List  # noqa: UP035 - as TorchScript reads it

import torch
from torch import Tensor


def eager(
    memory: Tensor,
    places: List[Tensor],  # noqa: UP006
    slots: List[List[Tensor]],  # noqa: UP006
    embedding: Tensor,
    past: Tensor,
    bias: Tensor,
    present: List[Tensor],  # noqa: UP006
    residual: List[Tensor],  # noqa: UP006
    head: List[Tensor],  # noqa: UP006
    old: Tensor,
    z: Tensor,
    u: Tensor,
    gated: List[List[Tensor]],  # noqa: UP006
    work: List[Tensor],  # noqa: UP006
    upto: Tensor,
    uniforms: List[Tensor],  # noqa: UP006
    out: List[Tensor],  # noqa: UP006
):
    """Codes into `out`, one tensor a time. All layers' old features are gathered, and multiplied, at once; a layer's
    next features go straight to their place in the queue."""
    last = upto.shape[1]
    for t in range(len(out)):
        torch.index_select(memory, 0, places[t % len(places)], out=old)
        torch.baddbmm(bias, old, past, out=z)
        slot = slots[t % len(places)]
        if t == 0:
            slot[0].zero_()
        else:
            torch.index_select(embedding, 0, out[t - 1], out=slot[0])
        for l in range(len(present)):
            parts = gated[l]
            parts[0].addmm_(slot[l], present[l])
            parts[1].tanh_()
            parts[2].sigmoid_()
            torch.mul(parts[1], parts[2], out=parts[3])
            if l < len(residual):
                torch.addmm(slot[l], parts[3], residual[l], out=slot[l + 1])
        torch.addmm(head[1], u, head[0], out=work[0]).relu_()
        torch.addmm(head[3], work[0], head[2], out=work[1]).relu_()
        torch.addmm(head[5], work[1], head[4], out=work[2])
        torch.cumsum(torch.softmax(work[2], 1, torch.float64)[:, :last], 1, out=upto)
        out[t].copy_(torch.searchsorted(upto, uniforms[t], right=True).view(-1))


generate = torch.jit.script(eager)
