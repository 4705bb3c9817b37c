"""Maximum likelihood by gradient: parameters, optimizers, schedules, and the loop."""

from chainrule.fit.loop import Training
from chainrule.fit.optimizer import OPTIMIZERS, Optimizer
from chainrule.fit.parameters import Gradient, Parameters, Product
from chainrule.fit.schedules import SCHEDULES

__all__ = ["OPTIMIZERS", "SCHEDULES", "Gradient", "Optimizer", "Parameters", "Product", "Training"]
