"""
What a table contains, as one short text: free of engine, file layout and the order of its rows.

``digest(A ++ B) = digest(A) + digest(B)``, so an append costs only the appended rows. It finds
every accidental change; it is not a signature.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError

_U = np.uint64
_A, _B = _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)
_C, _D = _U(0x9E3779B97F4A7C15), _U(0xC2B2AE3D27D4EB4F)
_MASK = (1 << 64) - 1

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """
    Two sums over the hashes of all rows, modulo 2 ** 64.

    :param rows: number of rows.

    Source: splitmix64 finaliser: Steele, Lea and Flood, OOPSLA 2014; text by xxh3-64.
    """

    rows: int = 0
    first: int = 0
    second: int = 0

    def __add__(self, other: Self) -> Self:
        first, second = self.first + other.first, self.second + other.second
        return type(self)(self.rows + other.rows, first & _MASK, second & _MASK)

    def __sub__(self, other: Self) -> Self:
        first, second = self.first - other.first, self.second - other.second
        return type(self)(self.rows - other.rows, first & _MASK, second & _MASK)

    def __str__(self) -> str:
        return f"ctd1-{self.rows:x}-{self.first:016x}{self.second:016x}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a digest from its written form.

        :raises ConfigurationError: if ``text`` is not a digest of this kind.
        """
        parts = text.split("-")
        if len(parts) != 3 or parts[0] != "ctd1" or len(parts[2]) != 32:
            msg = f"not a content digest: {text!r} (expected ctd1-<rows>-<32 hex digits>)"
            raise ConfigurationError(msg)
        return cls(int(parts[1], 16), int(parts[2][:16], 16), int(parts[2][16:], 16))


def digest_of(batches: Iterable[pa.RecordBatch]) -> ContentDigest:
    """Digest record batches; their borders and the order of rows and columns do not matter."""
    total = ContentDigest()
    for batch in batches:
        total = total + _digest(batch)
    return total


def digests_of(batch: pa.RecordBatch, cuts: Sequence[int]) -> list[ContentDigest]:
    """
    Digest consecutive parts of a batch in one pass.

    :param cuts: where parts begin, ascending from 0, and the number of rows; no part is empty.
    """
    words, scratch = _row_words(batch)
    starts, rows = list(cuts[:-1]), np.diff(cuts).tolist()
    first = np.add.reduceat(words, starts).tolist()
    words ^= _D
    second = np.add.reduceat(_mix(words, scratch), starts).tolist()
    return [ContentDigest(*part) for part in zip(rows, first, second, strict=True)]


def _digest(batch: pa.RecordBatch) -> ContentDigest:
    return digests_of(batch, [0, batch.num_rows])[0] if batch.num_rows else ContentDigest()


def _row_words(batch: pa.RecordBatch) -> tuple[Words, Words]:
    """Return one word for each row, and room of the same size."""
    rows = np.zeros(batch.num_rows, _U)
    scratch = np.empty(batch.num_rows, _U)
    columns = sorted(zip(batch.schema, batch.columns, strict=True), key=lambda pair: pair[0].name)
    for field, column in columns:
        salt = _U(xxhash.xxh3_64_intdigest(f"{field.name}\0{_kind(field.type)}".encode()))
        words = _words(column)
        words += salt
        _mix(words, scratch)
        if column.null_count:
            words[~column.is_valid().to_numpy(zero_copy_only=False)] = salt ^ _D
        rows *= _C
        rows += words
    return _mix(rows, scratch), scratch


def _mix(words: Words, scratch: Words) -> Words:
    """Finalise in place."""
    for shift, factor in ((_U(30), _A), (_U(27), _B)):
        np.right_shift(words, shift, out=scratch)
        words ^= scratch
        words *= factor
    np.right_shift(words, _U(31), out=scratch)
    words ^= scratch
    return words


def _kind(kind: pa.DataType) -> str:
    """Logical type: string widths and dictionary encoding do not matter."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return "string"
    if pt.is_large_binary(kind):
        return "binary"
    if pt.is_timestamp(kind):
        return "timestamp" + ("tz" if kind.tz else "")
    return str(kind)


def _words(column: pa.Array) -> Words:
    """One canonical 64-bit word per value, in a fresh array; under nulls anything."""
    kind = column.type
    if pt.is_floating(kind):
        filled = np.from_dlpack(pc.fill_null(column, 0.0))
        numbers = np.array(filled, np.float64)
        numbers += 0.0  # -0.0 becomes 0.0
        numbers[np.isnan(numbers)] = np.nan
        return numbers.view(_U)
    if pt.is_boolean(kind):
        return np.array(pc.fill_null(column, False).to_numpy(zero_copy_only=False), _U)
    if pt.is_integer(kind) or pt.is_temporal(kind):
        return _integers(column)
    if _is_text(kind):
        return _texts(column)
    return np.array(
        [_hash(json.dumps(v, default=str, sort_keys=True)) for v in column.to_pylist()], _U
    )


def _integers(column: pa.Array) -> Words:
    kind = column.type
    if pt.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pt.is_temporal(kind) and kind.bit_width == 32:
        column = column.cast(pa.int32())
    whole = pc.fill_null(column.cast(pa.int64(), safe=False), 0)
    return np.array(np.from_dlpack(whole)).view(_U)


def _is_text(kind: pa.DataType) -> bool:
    checks = (pt.is_dictionary, pt.is_string, pt.is_large_string, pt.is_string_view)
    return any(is_kind(kind) for is_kind in (*checks, pt.is_binary, pt.is_large_binary))


def _texts(column: pa.Array) -> Words:
    """Hash each distinct value once."""
    encoded = column if pt.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    hashes = np.array([0 if v is None else _hash(v) for v in values] or [0], _U)
    indices = np.from_dlpack(pc.fill_null(encoded.indices, 0))
    return np.asarray(hashes[indices], _U)


def _hash(value: str | bytes | object) -> int:
    data = value if isinstance(value, bytes) else str(value).encode()
    return xxhash.xxh3_64_intdigest(data)
