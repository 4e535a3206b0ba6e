"""Files written whole or not at all, read only when they are what they seem, and their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lwm_fast.errors import InputError

_LFS_MARK = b"version https://git-lfs"


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it replaces ``target``, on failure it is removed.

    Raises InputError when the folder does not exist or cannot be written.
    """
    target = Path(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}); choose an existing, writable folder"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:  # the rename must never reach the disk before the data
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp files are private; results are ordinary files
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: str | os.PathLike[str], *, block: int = 1 << 22) -> str:
    """Hex SHA-256 of a file's bytes, in constant memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(block):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path) -> Path:
    """The path, if it is a file with content.

    Raises:
        InputError: missing, empty, or a Git-LFS pointer in place of the data.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with _reading_allowed(path), path.open("rb") as file:
        head = file.read(len(_LFS_MARK))
    if not head:
        raise InputError(f"{path}: the file is empty; fetch or write it again")
    if head == _LFS_MARK:
        raise InputError(
            f"{path}: this is a Git-LFS pointer, not the data; run `git lfs pull` in its repository, or "
            "download the file itself"
        )
    return path


@contextlib.contextmanager
def _reading_allowed(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it; change its permissions (chmod u+r)") from error
