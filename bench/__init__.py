"""Benchmarks: chainrule beside PyTorch, JAX and NumPy. ``python -m bench`` runs them and writes docs/benchmarks.md."""
