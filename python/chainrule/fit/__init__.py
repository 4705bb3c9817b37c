"""Maximum likelihood by gradient: parameters, optimizers, and the loop."""

from chainrule.fit.adam import Adam
from chainrule.fit.loop import train
from chainrule.fit.parameters import Parameters

__all__ = ["Adam", "Parameters", "train"]
