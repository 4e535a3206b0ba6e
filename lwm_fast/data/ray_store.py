"""A folder of ray shards under a manifest: pre-training data of any size, rays kept as rays.

`manifest.json` says what was asked for and, once every shard is there, what each holds. A shard is an
ordinary file of `Channels.save` whose datasets are contiguous, so that it can be memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels
from lwm_fast.data.files import reading
from lwm_fast.data.meta import merge_meta
from lwm_fast.data.rays import RAY_COLUMNS, ArrayGeometry, Rays
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path

FORMAT = "lwm_fast.ray_store"
VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """What one shard holds.

    Attributes:
        file: name in the store's folder.
        num_users, num_rays: how many.
        sha256: of rays, positions, LoS flags, user numbers and geometry.
    """

    file: str
    num_users: int
    num_rays: int
    sha256: str


class RayStore:
    """A finished store; holds the manifest only, no file stays open, so it can be pickled.

    Attributes:
        folder: of the store.
        plan: what the store was made from, as its maker wrote it.
        streets: what each shard drew, as its maker wrote it.
        shards: what each shard holds.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = manifest["plan"]
        self.streets: list[dict[str, Any]] = manifest["streets"]
        self.shards = [Shard(**entry) for entry in manifest["shards"]]

    @classmethod
    def open(cls, folder: str | Path) -> RayStore:
        """Open a finished store; reads the manifest and looks that every shard is there.

        Raises:
            InputError: no store, one of a newer version, an unfinished one, a shard that is missing.
        """
        place = Path(folder).expanduser()
        manifest = read_manifest(place)
        if manifest is None:
            raise InputError(f"{place}: no ray store (no {MANIFEST}); make one with `lwm-fast synth`")
        if manifest["shards"] is None:
            there = sum(1 for _ in place.glob("*.h5"))
            raise InputError(
                f"{place}: the store is unfinished, {there} of {len(manifest['streets'])} shards are there; "
                "run the command that makes it again, it goes on where it stopped"
            )
        store = cls(place, manifest)
        for shard in store.shards:
            if not (place / shard.file).is_file():
                raise InputError(
                    f"{place / shard.file}: this shard of the store is missing; copy it here again, or set "
                    f'"shards" in {MANIFEST} to null and run the command that made the store'
                )
        return store

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[Channels]:
        return (self.shard(number) for number in range(len(self)))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Users of each shard, int64 [num_shards]."""
        return np.array([shard.num_users for shard in self.shards], np.int64)

    @property
    def num_users(self) -> int:
        """Users of all shards."""
        return sum(shard.num_users for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """sha256 of the shards' names, sizes and sha256: the same for the same content, wherever it lies."""
        lines = [f"{shard.file} {shard.num_users} {shard.sha256}\n" for shard in self.shards]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def carrier_range(self) -> tuple[float, float] | None:
        """Lowest and highest carrier of the streets in Hz; None if their maker did not say."""
        carriers = [street["carrier_frequency"] for street in self.streets if "carrier_frequency" in street]
        return (min(carriers), max(carriers)) if carriers else None

    def path(self, number: int) -> Path:
        """The HDF5 file of a shard."""
        return self.folder / self.shards[number].file

    def shard(self, number: int) -> Channels:
        """The users of one shard, rays in memory, in the array and band that the shard was made for.

        Raises:
            InputError: the file is missing, damaged, or not what the manifest says.
        """
        path = self.path(number)
        channels = read_shard(path)
        if summary_of(path.name, channels) != self.shards[number]:
            raise InputError(
                f"{path}: its content is not what {MANIFEST} says (damaged or replaced); copy this shard here "
                "again, or delete the store and make it anew"
            )
        return channels


def read_shard(path: Path) -> Channels:
    """One shard, not compared with any manifest.

    Raises:
        InputError: missing, damaged, or no file of rays.
    """
    import h5py

    from lwm_fast.data.saved import open_saved

    with reading(path, "a shard of a ray store"), h5py.File(path, "r") as file:
        channels = open_saved(path, file, ReadOptions()).channels
        if channels.rays is None:
            raise InputError(f"{path}: holds csi instead of rays; a shard of a ray store holds rays")
    return channels


def summary_of(file: str, channels: Channels) -> Shard:
    """What the manifest says about a shard of these channels, which hold rays."""
    rays, geometry = channels.rays, channels.geometry
    assert rays is not None
    assert geometry is not None
    digest = hashlib.sha256(json.dumps(asdict(geometry)).encode())
    columns = [rays.offsets, *(getattr(rays, name) for name in RAY_COLUMNS), channels.user_index]
    for column in (*columns, channels.los, channels.pos):
        digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
    return Shard(file, len(channels), rays.num_rays, digest.hexdigest())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store, finished or not; None where there is none.

    Raises:
        InputError: a manifest that cannot be read or is of a newer version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    with reading(path, "the manifest of a ray store"):
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise InputError(f"{path}: says format {manifest['format']!r}, not {FORMAT!r}: no ray store")
        if manifest["version"] > VERSION:
            raise InputError(
                f"{path}: version {manifest['version']}, newer than {VERSION}; update lwm_fast to read it"
            )
        for name in ("plan", "streets", "shards"):
            manifest[name]  # a KeyError names what is missing
    return manifest


def begin_store(
    folder: Path, plan: Mapping[str, Any], streets: Sequence[Mapping[str, Any]], *, generator: str
) -> bool:
    """Make the folder and its manifest, or find them there; True when the store is finished already.

    Args:
        folder: of the store; made if it is missing, its parent must exist.
        plan: what is asked for, values that JSON keeps.
        streets: what each shard draws, a function of the plan.
        generator: name and version of the maker.

    Raises:
        InputError: a store of another plan lies there (names the differences); a folder with other files; a
            place that cannot be written to.
    """
    wanted = {"format": FORMAT, "version": VERSION, "generator": generator, "plan": plan, "streets": streets}
    wanted = json.loads(json.dumps(wanted))  # as it is read back: tuples are lists
    found = read_manifest(folder)
    if found is not None:
        _check_same(folder, wanted, found)
        return found["shards"] is not None
    try:
        folder.mkdir(exist_ok=True)
        if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise InputError(
                f"{folder}: holds {', '.join(others[:4])} and no {MANIFEST}; choose an empty or new folder"
            )
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another place"
        ) from error
    _write_manifest(folder, {**wanted, "shards": None})
    return False


def finish_store(folder: Path, shards: Sequence[Shard]) -> RayStore:
    """Write into the manifest what every shard holds; from then on the store can be opened."""
    manifest = read_manifest(folder)
    assert manifest is not None
    manifest["shards"] = [asdict(shard) for shard in shards]
    _write_manifest(folder, manifest)
    for left in folder.glob(".*.tmp"):  # by writers that were killed
        left.unlink(missing_ok=True)
    return RayStore.open(folder)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        with atomic_path(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{folder / MANIFEST}: writing failed ({error.strerror}); free space and run again"
        ) from error


def _check_same(folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    pairs = [("generator", wanted["generator"], found.get("generator"))]
    names = dict.fromkeys([*wanted["plan"], *found["plan"]])
    pairs += [(name, wanted["plan"].get(name), found["plan"].get(name)) for name in names]
    differences = [f"{name} was {there} and is now {asked}" for name, asked, there in pairs if asked != there]
    if differences:
        raise InputError(
            f"{folder}: holds a store of another plan: {'; '.join(differences)}; give the same options to go "
            "on with it, or choose another folder"
        )


def is_ray_store(path: Path) -> bool:
    """True for a folder whose manifest says that it is a ray store, finished or not."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return True  # a damaged manifest is best explained by the store's own reader
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def open_ray_store(path: Path, options: ReadOptions) -> Opened:
    """Users of all shards under one geometry: LWM's settings with what was asked for."""
    options.check_for_rays(str(path))
    if options.base_station is not None:
        raise InputError(
            f"{path}: base_station={options.base_station}: every shard of a ray store has its own; leave it out"
        )
    store = RayStore.open(path)
    geometry = options.geometry(ArrayGeometry())
    parts = list(store)
    columns = {name: _joined(parts, name) for name in ("los", "pos")}
    meta = replace(
        merge_meta([part.meta for part in parts]),
        source=str(path),
        format="ray_store",
        format_version=str(VERSION),
        base_station=None,
        sha256=store.fingerprint,
    )
    rays = Rays.concatenate([part.rays for part in parts if part.rays is not None])
    channels = Channels.from_rays(rays, geometry, num_threads=options.num_threads, meta=meta, **columns)
    return Opened(channels, empty="keep")


def _joined(parts: Sequence[Channels], name: str) -> npt.NDArray[Any] | None:
    columns = [getattr(part, name) for part in parts]
    return None if any(column is None for column in columns) else np.concatenate(columns)
