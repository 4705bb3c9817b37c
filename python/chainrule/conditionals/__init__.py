"""Conditional distributions: parameters and x give log p, parameters and u give x = F^-1(u)."""

from chainrule.conditionals.bernoulli import Bernoulli

__all__ = ["Bernoulli"]
