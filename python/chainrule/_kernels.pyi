"""Types of src/bind_*.cpp. Arrays are checked at run time; what each must be is said in `chainrule.kernels`."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

version: str
isa: str
abi_version: int
compiler: str

def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def map(function: int, x: Array, out: Array, n_threads: int) -> None: ...
def logsumexp(x: Array, out: Array, n_threads: int) -> None: ...
def optimizer_step(
    rule: int,
    parameters: Array,
    gradient: Array,
    s: Array | None,
    t: Array | None,
    average: Array | None,
    learning_rate: float,
    beta1: float,
    beta2: float,
    correction1: float,
    correction2: float,
    epsilon: float,
    weight_decay: float,
    l2: float,
    gradient_scale: float,
    average_decay: float,
    n_threads: int,
) -> None: ...
def sum_squares(x: Array, n_threads: int) -> float: ...
def uniforms(key0: int, key1: int, first_block: int, out: Array, n_threads: int) -> None: ...
def bernoulli_log_prob(
    logits: Array, x: Array, log_prob: Array | None, terms: Array | None, n_threads: int
) -> None: ...
def bernoulli_sample(logits: Array, u: Array, out: Array, n_threads: int) -> None: ...
def bernoulli_gradient(
    logits: Array, x: Array, weight: Array | None, log_prob: Array | None, dlogits: Array, n_threads: int
) -> None: ...
def categorical_log_prob(
    logits: Array,
    x: Array,
    first: Array,
    reference: Array | None,
    log_prob: Array | None,
    terms: Array | None,
    n_threads: int,
) -> None: ...
def categorical_gradient(
    logits: Array,
    x: Array,
    first: Array,
    reference: Array | None,
    weight: Array | None,
    log_prob: Array | None,
    dlogits: Array,
    n_threads: int,
) -> None: ...
def categorical_sample(
    logits: Array, u: Array, first: Array, reference: Array | None, out: Array, n_threads: int
) -> None: ...
def nade_score(
    x: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    flip: Array | None,
    log_prob: Array | None,
    terms: Array | None,
    logits: Array | None,
    n_threads: int,
) -> None: ...
def nade_gradient(
    x: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    flip: Array | None,
    weight: Array | None,
    log_prob: Array | None,
    dW: Array,
    dV: Array,
    db: Array,
    dc: Array,
    n_threads: int,
) -> None: ...
def nade_sample(
    u: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    flip: Array | None,
    observed: Array | None,
    out: Array,
    n_threads: int,
) -> None: ...
