"""A model's parameters in one flat, aligned buffer, so that the optimizer is one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array, not initialised, that starts at a cache line: no vector of its rows of 64 bytes straddles two."""
    size = _count(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    shift = -memory.__array_interface__["data"][0] % 64  # cheaper than `ctypes.data`
    return memory[shift : shift + size].view(dtype).reshape(shape)


def _count(shape: tuple[int, ...]) -> int:
    return int(np.multiply.reduce(shape, dtype=np.int64))


class Parameters(Mapping[str, npt.NDArray[Any]]):
    """Named views into one flat buffer of float32 or float64.

    Rows of matrices start at multiples of 64 bytes, and not at multiples of 1024, so that a column of blocks does not
    fall into one cache set; the padding between them stays zero. ``parameters["W"]`` has the unpadded shape.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: npt.DTypeLike) -> None:
        self.shapes = dict(shapes)
        self.dtype = np.dtype(dtype)
        lane = 64 // self.dtype.itemsize
        strides, offsets, sizes, total = {}, {}, {}, 0
        for name, shape in self.shapes.items():
            ld = -(-shape[-1] // lane) * lane
            if len(shape) > 1 and ld * self.dtype.itemsize % 1024 == 0:
                ld += lane
            strides[name], offsets[name] = ld, total
            sizes[name] = ld * _count(shape[:-1])
            total += sizes[name]
        self.flat = aligned((total,), self.dtype)
        self.flat[:] = 0
        self._offsets, self._sizes = offsets, sizes  # a size has its padding
        self._views: dict[str, npt.NDArray[Any]] = {}
        for name, shape in self.shapes.items():
            at, ld = offsets[name], strides[name]
            if len(shape) > 1:
                block = self.flat[at : at + _count(shape[:-1]) * ld]
                self._views[name] = block.reshape(*shape[:-1], ld)[..., : shape[-1]]
            else:
                self._views[name] = self.flat[at : at + shape[0]]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def ranges(self, live: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
        """Ascending ranges [begin, end) of the flat buffer: of each array whole, or of its own ranges in `live`."""
        parts = [self._offsets[name] + live.get(name, np.array([[0, self._sizes[name]]])) for name in self.shapes]
        return np.concatenate(parts).astype(np.uint64)

    def ranges_of(self, names: Iterable[str]) -> npt.NDArray[np.uint64]:
        """Ascending ranges [begin, end) of some arrays, one each."""
        chosen = set(names)
        places = [(self._offsets[name], self._offsets[name] + self._sizes[name]) for name in self if name in chosen]
        return np.array(places, np.uint64).reshape(-1, 2)

    def outside(self, ranges: npt.NDArray[np.uint64], names: Iterable[str]) -> npt.NDArray[np.uint64]:
        """Those of `ranges`, each within one array, that lie in none of the arrays `names`."""
        left = ranges
        for name in names:
            begin = left[:, 0]
            left = left[(begin < self._offsets[name]) | (begin >= self._offsets[name] + self._sizes[name])]
        return left

    @property
    def views(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return self._views

    def like(self) -> Parameters:
        """Zeros in the same layout: a gradient, or an optimizer's moments."""
        return Parameters(self.shapes, self.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        return self.copy()

    def copy(self) -> Parameters:
        """The same values in a buffer of their own."""
        other = self.like()
        other.flat[:] = self.flat
        return other

    def __reduce__(self) -> Any:
        return _restore, (
            self.shapes,
            self.dtype.str,
            {name: np.ascontiguousarray(view) for name, view in self.items()},
        )


class Product(NamedTuple):
    """A matrix's gradient ``x' dy``, yet to be made, of live weights; ``db = sum_r dy_r`` is written with it."""

    x: npt.NDArray[Any]
    dy: npt.NDArray[Any]
    mask: Any
    db: npt.NDArray[Any] | None


class Gradient(Parameters):
    """A gradient of which matrices may be left as the `products` that they are, by name: the optimizer makes them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: npt.DTypeLike) -> None:
        super().__init__(shapes, dtype)
        self.products: dict[str, Product] = {}


def _restore(shapes: dict[str, tuple[int, ...]], dtype: str, arrays: dict[str, npt.NDArray[Any]]) -> Parameters:
    parameters = Parameters(shapes, dtype)
    for name, array in arrays.items():
        parameters[name][...] = array
    return parameters
