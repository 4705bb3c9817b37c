"""Conditional distributions: parameters and x give log p, parameters and u give x = F^-1(u)."""

from chainrule.conditionals.bernoulli import Bernoulli
from chainrule.conditionals.categorical import Categorical
from chainrule.conditionals.logistic_mixture import LogisticMixture
from chainrule.conditionals.softmax import Softmax

__all__ = ["Bernoulli", "Categorical", "LogisticMixture", "Softmax"]
