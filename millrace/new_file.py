"""Files that are made once, such as keys: whole or absent, and never replaced."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from millrace.faults import fault_point


def create(path: Path, content: bytes, mode: int) -> bool:
    """Make the file, with `mode` from its first byte on; False, and no change, when one is there already."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with fault_point("file.create"):
            os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True
