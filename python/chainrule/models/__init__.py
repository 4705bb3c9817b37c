"""The models: each an architecture, its parameters and the equations."""

from chainrule.models.independent import IndependentBernoulli
from chainrule.models.nade import NADE
from chainrule.models.tabular import Tabular

__all__ = ["NADE", "IndependentBernoulli", "Tabular"]
