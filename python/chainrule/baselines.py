"""What a model of sequences has to beat: codes that know little, in bits per sample on the same test recordings.

Each is a proper code of the very values the model scores: 256 mu-law codes, 65536 levels of 16-bit sound, or the codes
of a text; so their bits compare with a model's. Numbers here go into tables, not into models: they are not promised to
the last bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import audio, mulaw
from chainrule.validation import check_int

Array = npt.NDArray[Any]
HIGHEST_RATE = 655350  # that FLAC's header can hold; the size does not depend on it
LOG_2 = math.log(2.0)
AT_ONCE = 1 << 18  # samples of a long recording
FAR = 30.0  # standard deviations beyond which erfc gives way to its asymptotic series


def unigram_bits(train: Sequence[Array], test: Sequence[Array], n_values: int, smoothing: float = 0.5) -> float:
    """Cross-entropy of `test` under the histogram of `train`, bits per value.

    Parameters
    ----------
    train, test : sequences of integer arrays
        Values 0 to n_values - 1.
    n_values : int
    smoothing : float
        Added to every count (1/2: Krichevsky & Trofimov), so that no value has probability 0.
    """
    counts, seen = (_histogram(part, n_values) for part in (train, test))
    counts += smoothing
    return float(np.sum(seen * -np.log2(counts / counts.sum())) / np.sum(seen))


def _histogram(signals: Sequence[Array], n_values: int) -> npt.NDArray[np.float64]:
    counts = np.zeros(n_values)
    for signal in signals:
        counts += np.bincount(signal, minlength=n_values)
    return counts


class LinearPrediction:
    """Each sample is Gaussian around a linear combination of the `order` before it; the mass of its bin is its price.

    ``p(code_t = k | x_<t) = P(edge_k <= m_t + sigma e < edge_(k+1))``, ``m_t = sum_j a_j x_(t-j)``, with e standard
    normal, x the decoded samples (0 before the first), and the outermost bins reaching to infinity: over the codes it
    sums to 1. The a_j are least squares on the training recordings, sigma the root mean square of what they leave.

    Parameters
    ----------
    edges : array (n_values - 1,)
        Samples at which one bin ends and the next begins, ascending: `mulaw.edges()`, or those of `levels()`.
    values : array (n_values,)
        The sample that each bin stands for.
    order : int
        Samples that a prediction looks back.

    Attributes
    ----------
    coefficients_ : array (order,)
        Of the latest sample first.
    scale_ : float
        sigma.
    """

    coefficients_: npt.NDArray[np.float64]
    scale_: float

    def __init__(self, edges: Array, values: Array, order: int = 2) -> None:
        check_int("order", order, 1)
        self.edges, self.values, self.order = edges, np.asarray(values, np.float64), order

    def fit(self, codes: Sequence[Array]) -> LinearPrediction:
        """Coefficients and scale from recordings of codes."""
        # the normal equations of all recordings together: order + 1 numbers squared, whatever their length
        moments, n = np.zeros((self.order + 1, self.order + 1)), 0
        for signal in codes:
            for _, lagged in self._pieces(signal):
                moments += lagged @ lagged.T
            n += len(signal)
        self.coefficients_ = np.asarray(np.linalg.lstsq(moments[1:, 1:], moments[1:, 0], rcond=None)[0], np.float64)
        weights = np.append(1.0, -self.coefficients_)
        # silence leaves no residual: a bin's width is then what the code cannot tell apart
        self.scale_ = max(math.sqrt(max(float(weights @ moments @ weights), 0.0) / n), float(np.diff(self.edges).min()))
        return self

    def bits(self, codes: Sequence[Array]) -> float:
        """Bits per sample of recordings of codes."""
        return sum(-float(self.log_prob(signal).sum()) for signal in codes) / sum(map(len, codes)) / LOG_2

    def log_prob(self, codes: Array) -> npt.NDArray[np.float64]:
        """``log p(code_t | codes_<t)`` in nats, (n,)."""
        terms = []
        for piece, lagged in self._pieces(codes):
            mean = np.zeros(len(piece))  # term by term: a matrix product's order may depend on what comes later
            for coefficient, before in zip(self.coefficients_, lagged[1:], strict=True):
                mean += coefficient * before
            terms.append(self.log_mass(piece, mean))
        return np.concatenate(terms)

    def log_mass(self, codes: Array, mean: Array) -> npt.NDArray[np.float64]:
        """``log p(code)`` of each code where the Gaussian's mean is `mean`."""
        bounds = np.concatenate([[-np.inf], self.edges, [np.inf]])
        low, high = ((bounds[codes.astype(np.intp) + k] - mean) / self.scale_ for k in (0, 1))
        flipped = low + high < 0  # the same mass above the mean, where the tail keeps its digits
        low, high = np.where(flipped, -high, low), np.where(flipped, -low, high)
        tail = _log_tail(low)
        return tail + _log1mexp(tail - _log_tail(high))

    def _pieces(self, codes: Array) -> Iterator[tuple[Array, npt.NDArray[np.float64]]]:
        """Some codes at a time, with their samples and those 1, 2, ... before each: (order + 1, n)."""
        for start in range(0, len(codes), AT_ONCE):
            piece = codes[start : start + AT_ONCE]
            before = codes[max(start - self.order, 0) : start]
            x = np.zeros(self.order + len(piece))
            x[self.order - len(before) :] = self.values[np.concatenate([before, piece]).astype(np.intp)]
            yield piece, np.stack([x[self.order - k : len(x) - k] for k in range(self.order + 1)])


def _log_tail(z: Array) -> npt.NDArray[np.float64]:
    """``log P(e > z)`` of a standard normal e, also where the probability underflows."""
    near = np.minimum(z, FAR)
    erfc = np.array([math.erfc(value) for value in (near / math.sqrt(2.0)).tolist()])
    far = np.where((z > FAR) & (z < np.inf), z, FAR)
    square = far * far
    series = (
        -0.5 * square - np.log(far * math.sqrt(2.0 * math.pi)) + np.log1p((-1 + (3 - 15 / square) / square) / square)
    )
    with np.errstate(divide="ignore"):
        found: npt.NDArray[np.float64] = np.where(z > FAR, series, np.log(erfc / 2))
    return np.where(z == np.inf, -np.inf, found)


def _log1mexp(gap: Array) -> npt.NDArray[np.float64]:
    """``log(1 - exp(-gap))`` for gap > 0."""
    with np.errstate(divide="ignore"):
        return np.where(gap < LOG_2, np.log(-np.expm1(-gap)), np.log1p(-np.exp(-gap)))


def levels() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Edges and values of 16-bit sound as 65536 bins: code k stands for level k - 32768."""
    level = np.arange(-mulaw.FULL_SCALE, mulaw.FULL_SCALE)
    return (level[1:] - 0.5) / mulaw.FULL_SCALE, level / mulaw.FULL_SCALE


def flac_bits(signals: Sequence[Array], rate: int) -> float:
    """Bits per sample of all recordings joined in one FLAC file, headers included, at FLAC's best compression.

    Joined, because a header for each of many short recordings would count against FLAC; int16 samples, or uint8 mu-law
    codes as a file of 8 bits.
    """
    joined = np.concatenate(list(signals))
    if joined.dtype == np.uint8:
        joined = (joined ^ np.uint8(128)).view(np.int8)  # code - 128
    return 8 * audio.flac_bytes(joined, min(rate, HIGHEST_RATE)) / len(joined)


def compare(
    train: Sequence[Array], test: Sequence[Array], *, rate: int | None = None, n_values: int | None = None
) -> dict[str, float]:
    """Bits per sample of every baseline, by name, fitted to `train` and measured on `test`.

    Parameters
    ----------
    train, test : sequences of 1-d arrays
        uint8 codes (mu-law where there is a rate), or int16 samples.
    rate : int, optional
        Samples per second, for sound. Then linear prediction and FLAC (where soundfile is installed) are among them.
    n_values : int, optional
        Number of codes; needed where there is no rate.
    """
    sixteen = test[0].dtype == np.int16
    if sixteen:
        n_values = 1 << 16
        codes = [[(signal.astype(np.int32) + (1 << 15)) for signal in part] for part in (train, test)]
    else:
        codes = [list(train), list(test)]
    n_values = mulaw.LEVELS if n_values is None else n_values
    found = {}
    if rate is not None:
        edges, values = levels() if sixteen else (mulaw.edges(), mulaw.mu_law_decode(np.arange(mulaw.LEVELS)))
        with contextlib.suppress(ImportError):
            found["FLAC, recordings joined"] = flac_bits(test, rate)
        found["linear prediction, order 2"] = LinearPrediction(edges, values).fit(codes[0]).bits(codes[1])
    found["unigram"] = unigram_bits(codes[0], codes[1], n_values)
    found["uniform"] = math.log2(n_values)
    return found
