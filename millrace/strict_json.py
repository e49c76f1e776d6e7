"""JSON from outside of this process: what the standard parser lets pass and nobody means is refused."""

from __future__ import annotations

import json
import math
from typing import Any

from millrace.errors import ArtifactError

MAX_BYTES = 16 * 2**20
_MAX_DEPTH = 32


def parse(content: bytes, where: str, *, max_bytes: int = MAX_BYTES, allow_nan: bool = False) -> Any:
    """The value in `content`.

    Raises:
        ArtifactError: it is no JSON, too large or too deep, has a key twice, or (unless `allow_nan`) a number that is
            none.
    """
    try:
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes")
        value = json.loads(content, object_pairs_hook=_unique)
        _check(value, _MAX_DEPTH, allow_nan)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{where} cannot be read",
            got=str(error),
            allowed=f"JSON without repeated keys, at most {_MAX_DEPTH} levels deep",
            next="delete the prefix and run the step again",
        ) from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found


def _check(value: Any, levels: int, allow_nan: bool) -> None:
    if isinstance(value, float):
        # 1e999 is valid JSON, and infinity for Python.
        if not allow_nan and not math.isfinite(value):
            raise ValueError(f"{value} is no number")
    elif isinstance(value, dict | list):
        if levels == 0:
            raise ValueError(f"it is more than {_MAX_DEPTH} levels deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, levels - 1, allow_nan)
