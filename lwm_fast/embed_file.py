"""`embed_to_file`: embeddings of any number of channels into one HDF5 file, in constant memory, resumable.

The work is cut into parts. Each finished part is a file of its own beside the output, under a manifest that
fixes everything the numbers depend on; the parts are assembled into the output last, in one rename. A run
killed at any moment therefore leaves either no output or the whole output, and a resumed run computes the
missing parts with the same batches, so its result equals an uninterrupted run's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast import backends
from lwm_fast._version import __version__
from lwm_fast.encode import check_size, encode, pick_batch_size
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.pooling import get_pool
from lwm_fast.progress import Progress
from lwm_fast.tokens import num_tokens

if TYPE_CHECKING:
    from lwm_fast.data import Channels
    from lwm_fast.model import LWM

logger = logging.getLogger("lwm_fast")

FORMAT = "lwm_fast.embeddings"
FORMAT_VERSION = 1
_PART_BYTES = 16 << 20  # of csi a part covers: seconds of CPU work, so a kill loses little
_CHUNK_BYTES = 1 << 20  # HDF5 chunk of embeddings


@dataclass(frozen=True)
class Manifest:
    """All that the numbers depend on. A run resumes only under an equal manifest."""

    weights: str
    weights_sha256: str
    lwm_version: str
    source: str
    source_format: str
    source_sha256: str
    num_channels: int
    num_antennas: int
    num_subcarriers: int
    geometry: str
    synthetic: bool
    scale: float
    pool: str
    precision: str
    normalize: bool
    batch_size: int
    part_size: int
    backend: str
    code_path: str
    device: str
    package_version: str
    torch_version: str

    @property
    def num_parts(self) -> int:
        return -(-self.num_channels // self.part_size)

    def part(self, number: int) -> slice:
        start = number * self.part_size
        return slice(start, min(start + self.part_size, self.num_channels))


def embed_to_file(
    model: LWM,
    channels: Channels,
    output: str | os.PathLike[str],
    *,
    pool: str = "cls",
    batch_size: int | str = "auto",
    precision: str = "float32",
    normalize: bool = False,
    resume: bool = False,
    show_progress_bar: bool | None = None,
) -> Path:
    """Embed all channels into the HDF5 file ``output`` and return its path.

    Datasets: ``embeddings`` float32 [n, ...] as :meth:`LWM.encode` gives them, ``user_index`` int64 [n], and
    ``los`` int8, ``pos`` float32 [n, 3] (metres), ``labels`` where the source has them. Attributes: provenance.

    While it runs, finished parts lie in ``<output>.parts``. resume: go on from them (or start, if there are
    none); without it an existing output or an unfinished run is refused. Raises InputError for these, for
    channels that the model does not take, and for an output that cannot be written (a full disk included:
    finished parts stay for ``resume``).
    """
    output = Path(output)
    parts = output.with_name(output.name + ".parts")
    wanted = _manifest(model, channels, pool, batch_size, precision, normalize)
    if output.exists():
        if resume and not parts.exists():
            _check_same(wanted, _read_attributes(output), output)
            logger.info("%s is complete already", output)
            return output
        if not resume:
            raise InputError(f"{output}: exists already; choose another output or remove it")
    if parts.exists() and not resume:
        raise InputError(
            f"{parts}: an unfinished run; go on with --resume (resume=True), or remove this folder"
        )
    with _writing(output):
        manifest = _begin(parts, wanted)
    _compute(model, channels, manifest, parts, show_progress_bar)
    with _writing(output):
        _assemble(channels, manifest, parts, output)
    shutil.rmtree(parts)
    return output


def read_embeddings(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """The ``embeddings`` dataset of a file that :func:`embed_to_file` wrote; InputError for any other file."""
    import h5py

    _read_attributes(Path(path))
    with h5py.File(path, "r") as file:
        return np.asarray(file["embeddings"][...])


def _manifest(
    model: LWM, channels: Channels, pool: str, batch_size: int | str, precision: str, normalize: bool
) -> Manifest:
    get_pool(pool)
    device = model.device
    backend = backends.select(device, precision=precision, config=model.config)
    _, num_antennas, num_subcarriers = channels.shape
    check_size((num_antennas, num_subcarriers), model.config)  # before anything is written
    seq_len = num_tokens(num_antennas, num_subcarriers, model.config.lwm_version)
    batch = pick_batch_size(batch_size, backend.batch_tokens(device), np.array([seq_len]))
    per_part = max(1, _PART_BYTES // (8 * num_antennas * num_subcarriers))
    info, meta = model.weights_info, channels.meta
    return Manifest(
        weights=info.source if info else "weights without a file",
        weights_sha256=info.sha256 if info else "",
        lwm_version=model.config.lwm_version,
        source=meta.source,
        source_format=meta.format,
        source_sha256=meta.sha256 or "",
        num_channels=len(channels),
        num_antennas=num_antennas,
        num_subcarriers=num_subcarriers,
        geometry=json.dumps(asdict(channels.geometry), sort_keys=True) if channels.geometry else "",
        synthetic=meta.synthetic,
        scale=float(meta.scale),
        pool=pool,
        precision=precision,
        normalize=normalize,
        batch_size=batch,
        part_size=batch * max(1, per_part // batch),
        backend=backend.name,
        code_path=backend.code_path(model, precision),
        device=device.type,
        package_version=__version__,
        torch_version=str(torch.__version__),
    )


_ADOPTED = ("batch_size", "part_size")  # a resumed run takes these from the first one


def _check_same(wanted: Manifest, found: dict[str, Any], place: Path) -> None:
    differences = [
        f"{name} was {found.get(name)!r} and is now {value!r}"
        for name, value in asdict(wanted).items()
        if name not in _ADOPTED and found.get(name) != value
    ]
    if differences:
        raise InputError(
            f"{place}: made by a different run: {'; '.join(differences)}; choose another output or remove it"
        )


def _begin(parts: Path, wanted: Manifest) -> Manifest:
    """The manifest to work under: the one found in ``parts``, else ``wanted``, written there."""
    path = parts / "manifest.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        _check_same(wanted, found, parts)
        return Manifest(**found)
    if parts.exists():
        shutil.rmtree(parts)  # parts without a manifest: killed while tidying up, nothing says what made them
    parts.mkdir()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(asdict(wanted), indent=2), encoding="utf-8")
    return wanted


def _part_path(parts: Path, number: int) -> Path:
    return parts / f"part-{number:06d}.npy"


def _compute(model: LWM, channels: Channels, manifest: Manifest, parts: Path, show: bool | None) -> None:
    todo = [n for n in range(manifest.num_parts) if not _part_path(parts, n).exists()]
    done = manifest.num_channels - sum(_length(manifest.part(n)) for n in todo)
    if done:
        logger.info("resuming: %d of %d channels are done", done, manifest.num_channels)
    with Progress(manifest.num_channels, "embedding", show=show, done=done) as progress:
        for number in todo:
            rows = manifest.part(number)
            values = encode(
                model, channels[rows], manifest.pool, manifest.batch_size, precision=manifest.precision,
                normalize=manifest.normalize, show_progress_bar=False,
            )  # fmt: skip
            path = _part_path(parts, number)
            with (
                _writing(path, f" after {rows.start} of {manifest.num_channels} channels"),
                atomic_path(path) as new,
                open(new, "wb") as file,
            ):
                np.save(file, np.asarray(values), allow_pickle=False)
            progress.update(_length(rows))


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def _assemble(channels: Channels, manifest: Manifest, parts: Path, output: Path) -> None:
    import h5py

    first: npt.NDArray[np.float32] = np.load(_part_path(parts, 0), mmap_mode="r")
    shape = (manifest.num_channels, *first.shape[1:])
    row_bytes = 4 * int(np.prod(shape[1:]))
    chunk = (min(manifest.num_channels, max(1, _CHUNK_BYTES // row_bytes)), *shape[1:])
    whole = parts / "assembled.h5"  # in the parts' folder, so that a kill leaves nothing elsewhere
    _reserve(whole, row_bytes * manifest.num_channels)
    with h5py.File(whole, "w") as file:
        data = file.create_dataset("embeddings", shape, np.float32, chunks=chunk)
        for number in range(manifest.num_parts):
            data[manifest.part(number)] = np.load(_part_path(parts, number))
        for name in ("user_index", "los", "pos", "labels"):
            if (column := getattr(channels, name)) is not None:
                file.create_dataset(name, data=column)
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs.update(asdict(manifest))
        for name in (
            "carrier_frequency",
            "base_station",
            "base_station_pos",
            "num_users_total",
            "num_dropped",
        ):
            if (value := getattr(channels.meta, name)) is not None:
                file.attrs[name] = value
    with open(whole, "rb") as written:
        os.fsync(written.fileno())
    os.replace(whole, output)


def _reserve(path: Path, size: int) -> None:
    """Fail now, and cleanly, when ``size`` bytes do not fit: HDF5 notices only while it closes the file."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_attributes(path: Path) -> dict[str, Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
    except OSError as error:
        raise InputError(f"{path}: is not an HDF5 file of embeddings") from error
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: was not written by `lwm-fast embed`")
    return {
        name: value.item() if isinstance(value, np.generic) else value for name, value in attributes.items()
    }


@contextlib.contextmanager
def _writing(path: Path, progress: str = "") -> Iterator[None]:
    """Turn failures to write into one clear error; what is finished stays for a resumed run."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk at close as RuntimeError
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "errno = 28" in str(error)
        reason = "no space left" if full else (getattr(error, "strerror", None) or str(error))
        raise InputError(
            f"{path}: cannot be written{progress} ({reason}); make room or choose another place, "
            "then go on with --resume"
        ) from error
