"""Tensors of one column, [rows] or [rows, 1]: their datatypes, and their cells in JSON and as binary data.

Binary data is little-endian, without padding; an element of BYTES is its length, 4 bytes unsigned, and its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RequestError
from millrace.request_values import Cells, Place, broken

BYTES = "BYTES"
INT64 = "INT64"

_LENGTH = struct.Struct("<I")
# Below this many cells a loop is faster than an array's fixed cost.
_ARRAY_ROWS = 32


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype of numbers: how an element lies in binary data, and for whole numbers what it may be."""

    code: str
    """Of Python's `struct`; without a byte order."""
    dtype: np.dtype[Any]
    bounds: tuple[int, int] | None = None


def _float(code: str) -> Datatype:
    return Datatype(code, np.dtype(f"<{code}"))


def _whole(code: str) -> Datatype:
    dtype = np.dtype(f"<{code}")
    return Datatype(code, dtype, (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)))


BOOL = Datatype("B", np.dtype("u1"), (0, 1))

#: The datatypes of numbers. FP16 comes as binary data only: JSON has no number of 16 bits.
NUMBERS = {
    "FP64": _float("d"),
    "FP32": _float("f"),
    "FP16": _float("e"),
    "INT8": _whole("b"),
    "INT16": _whole("h"),
    "INT32": _whole("i"),
    "INT64": _whole("q"),
    "UINT8": _whole("B"),
    "UINT16": _whole("H"),
    "UINT32": _whole("I"),
    "UINT64": _whole("Q"),
    "BOOL": BOOL,
}


def json_cells(data: Any, datatype: str, num_rows: int, nested: bool, at: str, name: str) -> tuple[Cells, Place]:
    """The cells of `data`, flat or (`nested` allows it) as lists of one, and where they stand; null is None.

    Texts and floating-point numbers are left for the contract to judge. `at` is the tensor's JSON pointer.

    Raises:
        RequestError: no list of `num_rows` cells, or one that is not of a whole-number datatype.
    """
    field = f"{at}/data"
    if type(data) is not list:
        raise broken(field, "required" if data is None else "list", data, f"a list of {num_rows}", column=name)
    if len(data) != num_rows:
        raise broken(field, "shape", len(data), f"{num_rows} elements, as the shape says", column=name)
    place = Place(f"{field}/", "", name)
    if nested and type(data[0]) is list:
        place = Place(f"{field}/", "/0", name)
        for index, cell in enumerate(data):
            if type(cell) is not list or len(cell) != 1:
                raise Place(f"{field}/", "", name).broken(index, "shape", cell, "a list of one, as the shape says")
        data = [cell[0] for cell in data]
    if datatype == "BOOL":
        for index, cell in enumerate(data):
            if cell is not None and type(cell) is not bool:
                raise place.broken(index, "BOOL", cell, "true or false")
        return [None if cell is None else int(cell) for cell in data], place
    number = NUMBERS.get(datatype)
    if number is not None and number.bounds is not None:
        low, high = number.bounds
        for index, cell in enumerate(data):
            if cell is not None and (type(cell) is not int or not low <= cell <= high):
                raise place.broken(index, datatype, cell, f"a whole number from {low} to {high}")
    elif datatype == "FP16":
        raise broken(field, "FP16", "JSON", "FP16 as binary data, or FP32 in JSON", column=name)
    return data, place


def binary_numbers(body: bytes, start: int, datatype: Datatype, num_rows: int, place: Place) -> Cells | NDArray[Any]:
    """The `num_rows` numbers that lie at `start`: NaN or, where they are so few that a list is given, None if missing.

    Raises:
        RequestError: a byte of BOOL that is not 0 or 1.
    """
    if num_rows >= _ARRAY_ROWS:
        array = np.frombuffer(body, datatype.dtype, num_rows, start)
        if datatype is not BOOL:
            return array
        cells: Cells = array.tolist()
    else:
        cells = list(struct.unpack_from(f"<{num_rows}{datatype.code}", body, start))
    if datatype is BOOL:
        for index, cell in enumerate(cells):
            if cell > 1:
                raise place.broken(index, "BOOL", cell, "a byte of 0 or 1")
    return cells if datatype.bounds else [None if isnan(cell) else cell for cell in cells]


def binary_texts(body: bytes, start: int, size: int, num_rows: int, place: Place) -> list[str]:
    """The `num_rows` texts that lie in the `size` bytes at `start`.

    Raises:
        RequestError: they do not fill these bytes, or one is not UTF-8.
    """
    stop = start + size
    position = start
    parts: list[bytes] = []
    unpack = _LENGTH.unpack_from
    try:
        for _ in range(num_rows):
            first = position + 4
            position = first + unpack(body, position)[0]
            parts.append(body[first:position])
    except struct.error:  # beyond the body
        position = -1
    if position != stop:
        raise _uneven(body, start, stop, num_rows, place)
    try:
        return [part.decode() for part in parts]
    except UnicodeDecodeError as error:
        raise place.broken(parts.index(error.object), "UTF-8", error.object, "text in UTF-8") from None


def _uneven(body: bytes, start: int, stop: int, num_rows: int, place: Place) -> RequestError:
    """The error for texts that do not fill what lies from `start` to `stop`."""
    position = start
    for index in range(num_rows):
        left = stop - position - _LENGTH.size
        if left < 0:
            got = f"{left + _LENGTH.size} bytes left"
            return place.broken(index, "binary_data_size", got, "4 bytes of length, then the text")
        length = _LENGTH.unpack_from(body, position)[0]
        if length > left:
            return place.broken(index, "binary_data_size", f"a length of {length}", f"at most the {left} bytes left")
        position += _LENGTH.size + length
    return place.broken(num_rows, "shape", f"{stop - position} bytes more", f"{num_rows} texts, as the shape says")


def texts_as_binary(texts: Iterable[bytes]) -> bytes:
    """An element of BYTES for each of `texts`, one after the other."""
    return b"".join([part for text in texts for part in (_LENGTH.pack(len(text)), text)])
