"""How readers meet damaged files, and the fingerprint of what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lwm_fast.errors import InputError
from lwm_fast.files import sha256_of


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a parser raises on a damaged file into one InputError."""
    try:
        yield
    except (InputError, MemoryError, ImportError):
        raise
    except Exception as error:  # damaged bytes raise OSError, ValueError, zlib.error, TypeError, ...
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as {kind} ({reason}); the file may be truncated, damaged or of another "
            "kind: compare its size with the source's and fetch it again"
        ) from error


def fingerprint(files: Iterable[Path], root: Path) -> str:
    """sha256 of one file's content, or of the sorted (name, content hash) pairs of several under `root`."""
    ordered = sorted(files)
    if len(ordered) == 1:
        return sha256_of(ordered[0])
    digest = hashlib.sha256()
    for path in ordered:
        name = path.relative_to(root if path.is_relative_to(root) else root.parent).as_posix()
        digest.update(f"{name}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()
