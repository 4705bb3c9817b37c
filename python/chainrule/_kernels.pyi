"""Types of src/bind_*.cpp. Arrays are checked at run time; what each must be is said in `chainrule.kernels`."""

from collections.abc import Sequence
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
    optimizer: tuple[float, ...],
    parameters: Array,
    gradient: Array,
    s: Array | None,
    t: Array | None,
    average: Array | None,
    live: Array | None,
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
def logistic_mixture_log_prob(
    parameters: Array,
    x: Array,
    n_values: int,
    n_components: int,
    log_scale_min: float,
    log_prob: Array | None,
    terms: Array | None,
    n_threads: int,
) -> None: ...
def logistic_mixture_gradient(
    parameters: Array,
    x: Array,
    n_values: int,
    n_components: int,
    log_scale_min: float,
    weight: Array | None,
    log_prob: Array | None,
    dparameters: Array,
    n_threads: int,
) -> None: ...
def logistic_mixture_sample(
    parameters: Array,
    u: Array,
    n_values: int,
    n_components: int,
    log_scale_min: float,
    out: Array,
    n_threads: int,
) -> None: ...
def layer_norm(
    x: Array, gain: Array, bias: Array, epsilon: float, out: Array, statistics: Array | None, n_threads: int
) -> None: ...
def layer_norm_gradient(
    x: Array,
    gain: Array,
    statistics: Array,
    dy: Array,
    addend: Array | None,
    dx: Array,
    dgain: Array,
    dbias: Array,
    n_threads: int,
) -> None: ...
def gelu(form: int, x: Array, out: Array, n_threads: int) -> None: ...
def gelu_gradient(form: int, x: Array, dy: Array, out: Array, n_threads: int) -> None: ...
def dropout(x: Array, key0: int, key1: int, first_block: int, rate: float, out: Array, n_threads: int) -> None: ...
def softmax_log_prob(logits: Array, target: Array, out: Array, n_threads: int) -> None: ...
def softmax_gradient(
    logits: Array, target: Array, weight: Array | None, log_prob: Array | None, dlogits: Array, n_threads: int
) -> None: ...
def softmax_sample(
    logits: Array, u: Array, temperature: float, top_k: int, top_p: float, out: Array, n_threads: int
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
def nade_categorical_score(
    x: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    first: Array,
    reference: Array | None,
    log_prob: Array | None,
    terms: Array | None,
    logits: Array | None,
    n_threads: int,
) -> None: ...
def nade_categorical_gradient(
    x: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    first: Array,
    reference: Array | None,
    weight: Array | None,
    log_prob: Array | None,
    dW: Array,
    dV: Array,
    db: Array,
    dc: Array,
    n_threads: int,
) -> None: ...
def nade_categorical_sample(
    u: Array,
    W: Array,
    V: Array,
    b: Array,
    c: Array,
    activation: int,
    order: Array | None,
    first: Array,
    reference: Array | None,
    observed: Array | None,
    out: Array,
    n_threads: int,
) -> None: ...

class Mask:
    n_in: int
    n_out: int
    def __init__(self, n_in: int, n_out: int, live: Array | tuple[Array, Array] | None) -> None: ...
    def ranges(self) -> Array: ...

class Ones:
    codes: Array
    index: Array
    count: Array
    n_units: int

def encode(
    x: Array, order: Array | None, reference: Array | None, first: Array | None, out: Ones | None, n_threads: int
) -> Ones: ...
def masked_linear(
    mask: Mask,
    x: Array,
    W: Array,
    rows: Array | None,
    turned: bool,
    addend: Array | None,
    b: Array | None,
    activation: int,
    out: Array,
    n_threads: int,
) -> None: ...
def masked_linear_input_gradient(
    mask: Mask,
    dy: Array,
    W: Array,
    rows: Array | None,
    turned: bool,
    addend: Array | None,
    h: Array | None,
    activation: int,
    out: Array,
    n_threads: int,
) -> None: ...
def masked_linear_weight_gradient(
    mask: Mask,
    x: Array,
    dy: Array,
    dW: Array,
    rows: Array | None,
    turned: bool,
    whole: bool,
    db: Array | None,
    n_threads: int,
) -> None: ...
def masked_linear_step(
    optimizer: tuple[float, ...],
    mask: Mask,
    x: Array,
    dy: Array,
    W: Array,
    s: Array | None,
    t: Array | None,
    average: Array | None,
    db: Array | None,
    n_threads: int,
) -> None: ...
def sparse_linear(
    mask: Mask,
    x: Ones,
    W: Array,
    rows: Array | None,
    addend: Array | None,
    b: Array | None,
    activation: int,
    out: Array,
    n_threads: int,
) -> None: ...
def sparse_linear_weight_gradient(
    mask: Mask, x: Ones, dy: Array, dW: Array, rows: Array | None, whole: bool, db: Array | None, n_threads: int
) -> None: ...
def sparse_linear_step(
    optimizer: tuple[float, ...],
    mask: Mask,
    x: Ones,
    dy: Array,
    W: Array,
    s: Array | None,
    t: Array | None,
    average: Array | None,
    db: Array | None,
    n_threads: int,
) -> None: ...

class Network:
    def __init__(
        self,
        hidden: list[Any],
        output: Any,
        direct: Any,
        addend: Array | None,
        b: Array | None,
        order: Array | None,
        reference: Array | None,
        first: Array | None,
        n_features: int,
        n_rows: int,
    ) -> None: ...
    def score(self, x: Array, log_prob: Array | None, terms: Array | None, n_threads: int) -> None: ...

def masked_sample(
    hidden: list[Any],
    output: Any,
    direct: Any,
    addend: Array | None,
    b: Array | None,
    order: Array | None,
    reference: Array | None,
    first: Array | None,
    u: Array,
    observed: Array | None,
    out: Array,
    n_threads: int,
) -> None: ...
def causal_conv(
    x: Array, W: Array, b: Array | None, dilation: int, activation: int, out: Array, n_threads: int
) -> None: ...
def causal_conv_input_gradient(dy: Array, W: Array, dilation: int, out: Array, n_threads: int) -> None: ...
def causal_conv_weight_gradient(
    x: Array, dy: Array, dilation: int, dW: Array, db: Array | None, n_threads: int
) -> None: ...
def gated_block(
    block: tuple[Array | None, ...],
    dilation: int,
    x: Array,
    start: Array | None,
    frames: tuple[Array, int, int] | None,
    y: Array | None,
    skip: Array | None,
    first: bool,
    gates: Array | None,
    n_threads: int,
) -> None: ...
def gated_block_gradient(
    block: tuple[Array | None, ...],
    dilation: int,
    x: Array,
    start: Array | None,
    gates: Array,
    dy: Array | None,
    dskip: Array,
    gradient: tuple[Array | None, ...],
    dframes: tuple[Array, int, int] | None,
    dx: Array | None,
    n_threads: int,
) -> None: ...
def embedding(index: Array, E: Array, n_values: int, turned: bool, out: Array, n_threads: int) -> None: ...
def embedding_gradient(index: Array, dy: Array, n_values: int, turned: bool, dE: Array, n_threads: int) -> None: ...
def wavenet_sample(
    blocks: list[tuple[Array | None, ...]],
    dilations: list[int],
    input: Array,
    input_bias: Array | None,
    head: tuple[Array, ...],
    output: tuple[Array, ...],
    n_values: int,
    n_components: int,
    log_scale_min: float,
    temperature: float,
    u: Array,
    previous: Array,
    state: Array,
    taken: int,
    frames: list[tuple[Array, int, int]] | None,
    out: Array,
    n_threads: int,
) -> None: ...
def permute_columns(
    mask: Mask,
    W: Array,
    rows: Array | None,
    turned: bool,
    columns: Array,
    back: bool,
    out: Array,
    n_threads: int,
) -> None: ...
def attention(
    q: Array,
    k: Array,
    v: Array,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    causal: bool,
    lengths: Array | None,
    out: Array,
    statistics: Array | None,
    n_threads: int,
) -> None: ...
def attention_gradient(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    statistics: Array,
    dy: Array,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    causal: bool,
    lengths: Array | None,
    dq: Array,
    dk: Array,
    dv: Array,
    n_threads: int,
) -> None: ...
def attention_step(
    q: Array,
    k: Array | None,
    v: Array | None,
    cache: tuple[Array, Array, int],
    lengths: Array,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    causal: bool,
    out: Array,
    n_threads: int,
) -> None: ...
def packed_linear(x: Array, weights: tuple[Any, ...], addend: Array | None, out: Array, n_threads: int) -> None: ...

class Transformer:
    def __init__(
        self,
        blocks: list[tuple[Any, ...]],
        token: tuple[Any, ...],
        output: tuple[Any, ...],
        position: Array,
        norm: tuple[Array, Array] | None,
        n_heads: int,
        n_kv_heads: int,
        head_size: int,
        scale: float,
        post_norm: bool,
        activation: int,
        epsilon: float,
    ) -> None: ...

def transformer_step(
    network: Transformer,
    tokens: Array,
    lengths: Array,
    caches: Sequence[tuple[Array, Array, int]],
    last: Array | None,
    cross: Sequence[tuple[Array, Array, int]] | None,
    cross_lengths: Array | None,
    logits: Array | None,
    n_threads: int,
) -> None: ...
