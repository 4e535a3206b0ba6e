"""`ChannelStore`: training samples of mixed sizes from arrays, files and rays, one number each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.mask import check_ratio
from lwm_fast.data.open_sources import AnySource, open_sources
from lwm_fast.data.ray_plan import PRETRAINING_SIZES, RayPlan
from lwm_fast.data.rays import Complex64Array, Int32Array, Int64Array
from lwm_fast.data.sources import BadRowsError, RayColumns, RaySource, digest_of
from lwm_fast.errors import InputError
from lwm_fast.tokens import num_tokens

MAX_LEN = {"1.0": 129, "1.1": 513}
ON_BAD = ("error", "skip")
_OPEN_FILES = 256  # mapped ray files kept open: each holds a file descriptor, of which a process has few


@dataclass(frozen=True)
class Sample:
    """One sample: its epoch, its number in the store and csi complex64 [num_antennas, num_subcarriers]."""

    epoch: int
    index: int
    csi: Complex64Array


@dataclass(frozen=True)
class Gathered:
    """Where the csi of one batch comes from, for the collator; nothing is copied or built yet.

    index: int64 [B]; shape: int32 [B, 2]; scale: float32 [B]
    source: int32 [B] into `arrays`, then `rays`; row: int64 [B] of that source
    geometry: float64 [B, 8] (axes of the array, bandwidth Hz, spacing); panel: int64 [B, 2] (vertical, paths);
        None where there are no rays
    los: int8 [B], 1 LoS, 0 NLoS, -1 unknown; reference_db: float32 [B], what the plan's reference carrier adds to
        the gains, which is in `scale` already; None where a batch does not come from a store
    """

    epoch: int
    index: Int64Array
    shape: Int32Array
    scale: npt.NDArray[np.float32]
    arrays: list[Complex64Array]
    rays: list[RayColumns]
    source: Int32Array
    row: Int64Array
    geometry: npt.NDArray[np.float64] | None
    panel: Int64Array | None
    store: ChannelStore | None = None
    los: npt.NDArray[np.int8] | None = None
    reference_db: npt.NDArray[np.float32] | None = None


class ChannelStore:
    """Channels of any sizes for training, numbered 0..len - 1; a map-style dataset for torch's DataLoader.

    Arrays, contiguous HDF5 and .npy files are mapped into memory; chunked or compressed files are read row by
    row; of ray sources only the rays are held, and csi is built when a batch is made. Users without a ray are
    left out. NaN, Inf and damaged chunks are found when a sample is used. Pickles without its data.

    Args:
        sources: one source or a list: a path (.h5, .npy, zarr, a file of `Channels.save`, a DeepMIMO folder, a
            folder of `lwm-fast synth`), `Channels`, or a complex array [n, num_antennas, num_subcarriers].
        version: "1.0" or "1.1".
        plan: how rays become csi; None means the 20 pre-training sizes for v1.1, 32 x 32 for v1.0, 30 kHz
            per subcarrier and the stored rotations.
        max_len: longest sequence, CLS included; None means the release's 129 or 513.
        scale: factor of the csi in tokens; None means what each source says (1e6).
        on_bad: "error" stops at a sample that cannot be read or holds NaN or Inf and names it, "skip" leaves
            it out.

    Raises:
        InputError: no samples, a source that cannot be opened, sizes longer than `max_len` (all are listed).
    """

    def __init__(
        self,
        sources: Any,
        *,
        version: str = "1.1",
        plan: RayPlan | None = None,
        max_len: int | None = None,
        scale: float | None = None,
        on_bad: str = "error",
    ) -> None:
        check_ratio(version, None)
        if on_bad not in ON_BAD:
            raise InputError(f'on_bad={on_bad!r}: choose "error" or "skip"')
        self.version, self.on_bad = version, on_bad
        sizes = PRETRAINING_SIZES if version == "1.1" else ((32, 32),)
        self.plan = RayPlan(sizes=sizes) if plan is None else plan
        several = isinstance(sources, Sequence) and not isinstance(sources, str)
        found = [one for source in (sources if several else [sources]) for one in open_sources(source)]
        self._sources = [one for one in found if len(one) and self._wanted(one)]
        if not self._sources:
            raise InputError(
                f"ChannelStore: none of the {len(found)} sources has a sample that the plan takes "
                f"(carrier={self.plan.carrier}); give other sources or another carrier range"
            )
        counts = [len(source) for source in self._sources]
        self._starts: Int64Array = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._is_rays = np.array([isinstance(source, RaySource) for source in self._sources])
        self._scale = np.array(
            [source.meta.scale if scale is None else scale for source in self._sources], np.float32
        )
        self._reference_db = np.array([self._reference_of(source) for source in self._sources], np.float32)
        self._fixed_size = np.array([self._size_of(source) for source in self._sources], np.int32)
        self._geometry = np.array([_geometry_row(source) for source in self._sources])
        self._vertical = np.array([_vertical(source) for source in self._sources], np.int64)
        self.max_len = MAX_LEN[version] if max_len is None else max_len
        self._check_sizes()
        self._sizes: OrderedDict[int, Int32Array] = OrderedDict()
        self._open: OrderedDict[int, RaySource] = OrderedDict()
        self._fingerprint: str | None = None

    def _wanted(self, source: AnySource) -> bool:
        return not isinstance(source, RaySource) or self.plan.accepts(source.meta.carrier_frequency)

    def _reference_of(self, source: AnySource) -> float:
        if not isinstance(source, RaySource):
            return 0.0
        return self.plan.reference_gain_db(source.meta.carrier_frequency, source.name)

    @staticmethod
    def _size_of(source: AnySource) -> tuple[int, int]:
        if isinstance(source, RaySource):
            return source.geometry.size, source.geometry.num_subcarriers
        return source.size

    def _check_sizes(self) -> None:
        """Every size that can come up has tokens, and not too many."""
        planned = bool(self.plan.sizes)
        possible = {
            (int(n), int(sc)): source.name
            for source, rays, (n, sc) in zip(self._sources, self._is_rays, self._fixed_size, strict=True)
            if not (rays and planned)
        }
        if planned and self._is_rays.any():
            possible |= dict.fromkeys(self.plan.sizes, "plan")
        long = []
        for (n, sc), place in possible.items():
            if (length := num_tokens(n, sc, self.version)) > self.max_len:
                long.append(f"{n} x {sc} ({length} tokens, {place})")
        if long:
            raise InputError(
                f"ChannelStore: {len(long)} sizes are longer than max_len={self.max_len}: {'; '.join(long)}; "
                "leave them out, or train a model with a longer max_len"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sizes": OrderedDict(), "_open": OrderedDict()}

    @property
    def fingerprint(self) -> str:
        """Hash of what the store holds and of its plan: sizes and sampled contents, wherever the files lie."""
        if self._fingerprint is None:
            digests = []
            for source in self._sources:
                digests.append(source.digest())
                if isinstance(source, RaySource):
                    source.close()
            self._fingerprint = digest_of([repr(self.plan), *digests])
        return self._fingerprint

    def sizes(self, epoch: int) -> Int32Array:
        """(num_antennas, num_subcarriers) of every sample in an epoch, int32 [n, 2]. Do not write to it."""
        if epoch not in self._sizes:
            counts = np.diff(self._starts)
            sizes = np.repeat(self._fixed_size, counts, axis=0)
            if self.plan.sizes and self._is_rays.any():
                rays = np.flatnonzero(np.repeat(self._is_rays, counts))
                sizes[rays] = self.plan.sizes_of(rays, epoch)
            self._sizes[epoch] = sizes
            while len(self._sizes) > 2:  # this epoch's and epoch 0's, which validation uses
                self._sizes.popitem(last=False)
        self._sizes.move_to_end(epoch)
        return self._sizes[epoch]

    def lengths(self, epoch: int) -> Int32Array:
        """Tokens of every sample in an epoch, CLS included, int32 [n]."""
        return lengths_of(self.sizes(epoch), self.version)

    def place(self, index: int) -> str:
        """Where a sample lies: file, dataset and row, for error texts."""
        number, row = self._locate(np.array([index], np.int64))
        source = self._sources[int(number[0])]
        kind = "user" if isinstance(source, RaySource) else "sample"
        return f"{source.name}, {kind} {source.row_in_file(int(row[0]))}"

    def _locate(self, index: Int64Array) -> tuple[Int64Array, Int64Array]:
        wrong = (index < 0) | (index >= len(self))
        if wrong.any():
            raise InputError(f"ChannelStore: no sample {index[wrong][0]}; there are {len(self)}")
        number = np.searchsorted(self._starts, index, side="right") - 1
        return number.astype(np.int64), index - self._starts[number]

    def gather(self, epoch: int, index: npt.ArrayLike) -> Gathered:
        """Where the csi of these samples comes from in an epoch; `MCMCollator` makes a batch of it.

        Raises:
            InputError: a number out of range, or, unless on_bad="skip", a sample that cannot be read.
        """
        wanted: Int64Array = np.asarray(index, np.int64).reshape(-1)
        while True:
            try:
                return self._gather(epoch, wanted)
            except _BadSamplesError as error:
                if self.on_bad == "error":
                    raise error.cause from None
                wanted = wanted[~np.isin(wanted, error.index)]

    def _gather(self, epoch: int, index: Int64Array) -> Gathered:
        number, row = self._locate(index)
        arrays: list[Complex64Array] = []
        rays: list[RayColumns] = []
        source: Int32Array = np.empty(len(index), np.int32)
        places: Int64Array = np.empty(len(index), np.int64)
        los = np.full(len(index), -1, np.int8)
        for own in self._groups(number):
            held, places[own] = self._take(int(number[own[0]]), row[own])
            source[own] = len(arrays) + len(rays)
            if isinstance(origin := self._sources[int(number[own[0]])], RaySource):
                los[own] = origin.los_of(places[own])
            (rays if self._is_rays[number[own[0]]] else arrays).append(held)
        shape = self._shape_of(epoch, index, number)
        geometry, panel = self._geometry_of(epoch, index, number, shape) if rays else (None, None)
        reference_db = self._reference_db[number]
        scale = self._scale[number]
        if self.plan.reference_carrier is not None:
            scale = scale * 10 ** (reference_db / np.float32(20))
        return Gathered(
            epoch, index, shape, scale, arrays, rays, source, places, geometry, panel, self, los, reference_db
        )

    def _groups(self, number: Int64Array) -> list[Int64Array]:
        """Places of the batch by source, arrays first, as `Gathered` numbers them."""
        if not len(number):
            return []
        if len(self._sources) == 1:
            return [np.arange(len(number))]
        order = np.lexsort((number, self._is_rays[number]))
        return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)

    def _shape_of(self, epoch: int, index: Int64Array, number: Int64Array) -> Int32Array:
        shape = self._fixed_size[number]
        planned = self._is_rays[number]
        if self.plan.sizes and planned.any():
            shape[planned] = self.plan.sizes_of(index[planned], epoch)
        return shape

    def _geometry_of(
        self, epoch: int, index: Int64Array, number: Int64Array, shape: Int32Array
    ) -> tuple[npt.NDArray[np.float64], Int64Array]:
        """Geometry [B, 8] and panel [B, 2] as in `Gathered`: the stored ones, changed as the plan says."""
        geometry, panel = self._geometry[number], np.empty((len(index), 2), np.int64)
        rotations = self.plan.rotations_of(index, epoch)
        if rotations is not None:
            angle = np.deg2rad(rotations)
            geometry[:, :6] = 0.0
            geometry[:, 0], geometry[:, 1], geometry[:, 5] = -np.sin(angle), np.cos(angle), 1.0
        if self.plan.sizes or self.plan.bandwidth is not None:
            geometry[:, 6] = self.plan.bandwidths_of(shape[:, 1])
        panel[:, 0] = 1 if self.plan.sizes else self._vertical[number]
        panel[:, 1] = self.plan.max_paths_of(index, epoch)
        return geometry, panel

    def _take(self, number: int, rows: Int64Array) -> tuple[Any, Int64Array]:
        source = self._sources[number]
        if isinstance(source, RaySource):
            self._open[number] = source
            self._open.move_to_end(number)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        try:
            return source.take(rows)
        except BadRowsError as error:
            raise _BadSamplesError(error, self._starts[number] + error.rows) from error

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Gathered:
        """A whole batch of (epoch, index), which torch's DataLoader hands to the collator as it is."""
        epochs = {int(epoch) for epoch, _ in items}
        if len(epochs) > 1:
            raise InputError(f"ChannelStore: a batch of the epochs {sorted(epochs)}; a batch has one epoch")
        return self.gather(epochs.pop() if epochs else 0, [index for _, index in items])

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """One sample by (epoch, index)."""
        from lwm_fast.data.collate import gather_csi

        epoch, index = item
        return Sample(int(epoch), int(index), gather_csi(self.gather(int(epoch), [index])))


def lengths_of(sizes: Int32Array, version: str) -> Int32Array:
    """Tokens of channels of sizes [n, 2], CLS included, int32 [n]; v1.0 sizes are multiples of 16 values."""
    n, sc = sizes[:, 0], sizes[:, 1]
    if version == "1.0":
        return np.asarray(n * sc // 8 + 1, np.int32)
    return np.asarray((n + 3) // 4 * ((sc + 3) // 4) + 1, np.int32)


def _geometry_row(source: AnySource) -> list[float]:
    """A row of `Gathered.geometry`; zeros for finished csi."""
    if not isinstance(source, RaySource):
        return [0.0] * 8
    axis_h, axis_v = source.geometry.axes()
    return [*axis_h, *axis_v, source.geometry.bandwidth_hz, source.geometry.spacing]


def _vertical(source: AnySource) -> int:
    return source.geometry.panel[1] if isinstance(source, RaySource) else 1


class _BadSamplesError(Exception):
    def __init__(self, cause: InputError, index: Int64Array) -> None:
        super().__init__(str(cause))
        self.cause, self.index = cause, index
