"""Rows from files and to files (.npy, .npz, .csv, .parquet), a block at a time: a file may be larger than memory.

A file is read once, from first row to last; written files appear whole under their name, or not at all.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import lzma
import math
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from chainrule import io

Array = npt.NDArray[Any]
Write = Callable[[Array], None]

BLOCK_VALUES = 1 << 22  # values of a block: 32 MB as float64
BLOCK_ROWS = 1 << 16
SPLITS = {"train": ("train",), "validation": ("valid", "validation", "val"), "test": ("test",)}


def rows_at_once(n_columns: int) -> int:
    """Rows of a block."""
    return min(max(BLOCK_VALUES // max(n_columns, 1), 1), BLOCK_ROWS)


@dataclass(frozen=True)
class Table:
    """An open file of rows."""

    n_columns: int
    n_rows: int | None  # None: known when the file has been read
    names: tuple[str, ...] | None  # of the columns, where the file has them
    read: Callable[[int], Iterator[Array]]

    def blocks(self) -> Iterator[Array]:
        """The rows, some at a time; once."""
        return self.read(rows_at_once(self.n_columns))


# ---- reading


@contextlib.contextmanager
def reading(path: str, array: str | None = None, *, missing: bool = False) -> Iterator[Table]:
    """The table in `path`; `array` names one of a .npz file that holds several, "-" is CSV on standard input.

    With `missing`, empty cells and nulls are NaN; else they are errors. A missing file is a FileNotFoundError, a
    damaged or foreign one a ValueError.
    """
    suffix = _suffix(path)
    if path != "-" and not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path!r}")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path!r} is a directory")
    if array is not None and suffix != ".npz":
        raise ValueError(f"an array is chosen by name in .npz files alone, not in {path!r}")
    with _damage_is_a_value_error(path, suffix), _READERS[suffix](path, array, missing) as table:
        yield table


@contextlib.contextmanager
def _damage_is_a_value_error(path: str, suffix: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError, NotImplementedError) as error:
        raise ValueError(f"{path!r} is not a readable {suffix} file: {error}") from None


def read(path: str, array: str | None = None) -> Array:
    """All rows of `path`; a .npy file stays on the disk, memory-mapped."""
    with reading(path, array) as table:
        if _suffix(path) == ".npy" and table.n_rows:
            try:
                return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
            except ValueError as error:  # it is shorter than it says
                raise ValueError(f"{path!r} is not a readable .npy file: {error}") from None
        blocks = [_narrow(block) for block in table.blocks()] or [np.empty((0, table.n_columns), np.uint8)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_splits(path: str, array: str | None = None) -> dict[str, Array]:
    """Rows by purpose: the arrays train, valid and test of a .npz file; one array is for training."""
    if array is None and _suffix(path) == ".npz" and zipfile.is_zipfile(path):
        with _damage_is_a_value_error(path, ".npz"):
            names = _npz_names(path)
        if "train" in names:
            found = {split: next((n for n in known if n in names), None) for split, known in SPLITS.items()}
            return {split: read(path, name) for split, name in found.items() if name is not None}
    return {"train": read(path, array)}


def _suffix(path: str) -> str:
    suffix = ".csv" if path == "-" else Path(path).suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path!r} is not one of the formats {', '.join(_READERS)}")
    return suffix


def _narrow(block: Array) -> Array:
    """The same numbers as bytes, where bytes can hold them."""
    with np.errstate(invalid="ignore"):
        small = block.astype(np.uint8)
    return small if np.array_equal(small, block) else np.array(block)


@contextlib.contextmanager
def _npy(path: str, array: str | None, missing: bool) -> Iterator[Table]:
    with open(path, "rb") as file:
        yield _array_table(path, file)


def _array_table(path: str, file: IO[bytes]) -> Table:
    """The array that follows in `file`, read as its blocks are asked for; one that is stored by columns, at once."""
    try:
        shape, fortran, dtype = _npy_header(file)
    except Exception as error:  # NumPy parses it as Python: damage shows as almost any error
        raise ValueError(f"{path!r} cannot be read: {error}") from None
    if dtype.kind not in "buif":
        raise ValueError(f"{path!r} holds {dtype}, not numbers")
    if len(shape) != 2:
        raise ValueError(f"{path!r} holds an array of shape {shape}: it must be 2-d, one row per example")
    n_rows, n_columns = shape

    def take(k: int) -> Array:
        size = k * n_columns * dtype.itemsize
        data = file.read(size)
        if len(data) < size:
            raise EOFError(f"it ends before its {n_rows} rows of {n_columns} do")
        return np.frombuffer(data, dtype)

    def blocks(k: int) -> Iterator[Array]:
        if fortran:
            whole = take(n_rows).reshape((n_rows, n_columns), order="F")
            yield from (whole[at : at + k] for at in range(0, n_rows, k))
        else:
            yield from (take(min(k, n_rows - at)).reshape(-1, n_columns) for at in range(0, n_rows, k))

    return Table(n_columns, n_rows, None, blocks)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"its format version is {version}")


def _npz_names(path: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextlib.contextmanager
def _npz(path: str, array: str | None, missing: bool) -> Iterator[Table]:
    names = _npz_names(path)
    if array is None and len(names) != 1:
        raise ValueError(f"{path!r} holds {len(names)} arrays ({', '.join(names)}): choose one with --array NAME")
    if array is not None and array not in names:
        raise ValueError(f"{path!r} has no array {array!r}; it holds {', '.join(names)}")
    name = names[0] if array is None else array
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(f"{name}.npy").flag_bits & 1:
            raise ValueError(f"{path!r} is encrypted")
        with archive.open(f"{name}.npy") as member:
            yield _array_table(path, member)


@contextlib.contextmanager
def _csv(path: str, array: str | None, missing: bool) -> Iterator[Table]:
    """Separated by commas, semicolons or tabs; a first line that is not numbers, or counts 0, 1, ..., is the header."""
    with contextlib.ExitStack() as stack:
        file = sys.stdin if path == "-" else stack.enter_context(open(path, encoding="utf-8-sig"))
        blank = " \r\n" if missing else None  # a line of tabs is a row where cells may be empty
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip(blank))
        first = next(lines, None)
        if first is None:
            raise ValueError(f"{path!r} is empty")
        delimiter = next((d for d in ",;\t" if d in first[1]), ",")
        cells = [cell.strip() for cell in next(csv.reader([first[1]], delimiter=delimiter))]
        counts = len(cells) > 7 and cells == [str(k) for k in range(len(cells))]  # what pandas writes without names
        names = None if all(map(_is_number, cells)) and not counts else tuple(cells)
        if names is None:
            lines = itertools.chain([first], lines)  # type: ignore[assignment]
        elif "" in names:
            raise ValueError(
                f"{path!r}: column {names.index('') + 1} has no name: a pandas index? Write with index=False"
            )

        def blocks(k: int) -> Iterator[Array]:
            while some := list(itertools.islice(lines, k)):
                yield _parse(path, some, delimiter, len(cells), missing)

        yield Table(len(cells), None, names, blocks)


def _is_number(cell: str) -> bool:
    return _number(cell) is not None or not cell


def _number(cell: str) -> float | None:
    try:
        return float({"True": "1", "False": "0"}.get(cell, cell))
    except ValueError:
        return None


def _parse(path: str, lines: list[tuple[int, str]], delimiter: str, n_columns: int, missing: bool) -> Array:
    text = "".join(line for _, line in lines).encode()
    if len(text) == 2 * n_columns * len(lines):  # one character each?
        table = np.frombuffer(text, np.uint8).reshape(len(lines), 2 * n_columns)
        digits = table[:, ::2] - np.uint8(ord("0"))
        separated = (table[:, 1:-1:2] == ord(delimiter)).all() and (table[:, -1] == ord("\n")).all()
        if separated and digits.max() < 10:
            return digits
    with contextlib.suppress(ValueError):
        block = np.loadtxt((line for _, line in lines), delimiter=delimiter, quotechar='"', comments=None, ndmin=2)
        if block.shape[1] == n_columns:
            return block
    block = np.empty((len(lines), n_columns))  # cell by cell: True and False, empty cells, or what is wrong
    for row, (number, line) in zip(block, lines, strict=True):
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
        if len(cells) != n_columns:
            raise ValueError(f"{path!r}, line {number}: {len(cells)} cells, where the first line has {n_columns}")
        for column, cell in enumerate(cells):
            value = math.nan if missing and not cell else _number(cell)
            if value is None:
                wrong = f"{cell!r} is not a number" if cell else "the cell is empty"
                raise ValueError(f"{path!r}, line {number}, column {column + 1}: {wrong}")
            row[column] = value
    return block


def pyarrow() -> Any:
    """PyArrow's Parquet module."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError('.parquet files need pyarrow: pip install "chainrule[parquet]"') from None
    return pyarrow


@contextlib.contextmanager
def _parquet(path: str, array: str | None, missing: bool) -> Iterator[Table]:
    arrow = pyarrow()
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(arrow.parquet.ParquetFile(path))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path!r} is not a readable .parquet file: {error}") from None
        schema, types = file.schema_arrow, arrow.types
        for field in schema:
            if not (types.is_integer(field.type) or types.is_floating(field.type) or types.is_boolean(field.type)):
                raise ValueError(f"{path!r}: column {field.name!r} holds {field.type}, not numbers")

        def values(batch: Any, k: int) -> Array:
            if batch.column(k).null_count and not missing:
                raise ValueError(f"{path!r}: column {schema.names[k]!r} has missing values")
            column = batch.column(k).to_numpy(zero_copy_only=False)
            return column.astype(np.float64) if column.dtype == object else column  # type: ignore[no-any-return]

        def blocks(k: int) -> Iterator[Array]:
            for batch in file.iter_batches(k):
                yield np.column_stack([values(batch, column) for column in range(len(schema))])

        yield Table(len(schema), file.metadata.num_rows, tuple(schema.names), blocks)


_READERS = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}


# ---- writing


def check_output(path: str) -> None:
    """Errors that are better met before the work than after it: an unknown format, no such folder, no pyarrow."""
    if path != "-":
        io.check_target(path)
    if _suffix(path) == ".parquet":
        pyarrow()


@contextlib.contextmanager
def writing(path: str, names: tuple[str, ...] | None = None) -> Iterator[Write]:
    """A function that appends a block of rows to `path`, under `names` where the format has them; "-" is CSV on stdout.

    The file appears when the context ends well. All blocks have one dtype, and one width or none (1-d: a column).
    """
    if path == "-":
        with _csv_writer(_Stdout(), names) as write:  # type: ignore[arg-type]
            yield write
        return
    with io.replacing(path) as file, _WRITERS[_suffix(path)](file, names) as write:
        yield write


class _Stdout:
    def write(self, data: bytes) -> None:
        sys.stdout.write(data.decode())


@contextlib.contextmanager
def _npy_writer(file: IO[bytes], names: tuple[str, ...] | None) -> Iterator[Write]:
    header: dict[str, Any] = {}
    n_rows = 0

    def write(block: Array) -> None:
        nonlocal n_rows
        if not header:
            header.update(np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(block)))
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (0, *block.shape[1:])})
        n_rows += len(block)
        file.write(np.ascontiguousarray(block).tobytes())

    yield write
    file.seek(0)  # the header has room for any number of rows
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (n_rows, *header["shape"][1:])})


@contextlib.contextmanager
def _npz_writer(file: IO[bytes], names: tuple[str, ...] | None) -> Iterator[Write]:
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as array:
        with _npy_writer(array, names) as write:
            yield write
        array.seek(0)
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("rows.npy", "w", force_zip64=True) as member,
        ):
            shutil.copyfileobj(array, member, 1 << 20)


@contextlib.contextmanager
def _csv_writer(file: IO[bytes], names: tuple[str, ...] | None) -> Iterator[Write]:
    if names:
        quoted = (f'"{name}"' if set(name) & set(',;\t"\n') else name for name in (n.replace('"', '""') for n in names))
        file.write((",".join(quoted) + "\n").encode())

    def write(block: Array) -> None:
        block = block.reshape(len(block), -1) if block.size else block.reshape(0, 1)
        if block.dtype == np.uint8 and block.max(initial=0) < 10:  # one character each
            text = np.full((len(block), 2 * block.shape[1]), ord(","), np.uint8)
            text[:, ::2] = block + ord("0")
            text[:, -1] = ord("\n")
            file.write(text.tobytes())
        else:
            file.write("".join(",".join(map(repr, row)) + "\n" for row in block.tolist()).encode())

    yield write


@contextlib.contextmanager
def _parquet_writer(file: IO[bytes], names: tuple[str, ...] | None) -> Iterator[Write]:
    arrow = pyarrow()
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def write(block: Array) -> None:
            nonlocal writer
            columns = block.reshape(len(block), 1) if block.ndim == 1 else block
            table = arrow.table(
                [np.ascontiguousarray(column) for column in columns.T],
                names=list(names or (f"x{k}" for k in range(columns.shape[1]))),
            )
            if writer is None:
                writer = stack.enter_context(arrow.parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)

        yield write


_WRITERS = {".npy": _npy_writer, ".npz": _npz_writer, ".csv": _csv_writer, ".parquet": _parquet_writer}
