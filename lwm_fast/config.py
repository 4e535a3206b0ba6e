"""Model configuration: a frozen record that names every size, read from and written to plain JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwm_fast.errors import InputError
from lwm_fast.reference import SIZES, Sizes

FORMAT_VERSION = 1  # of config.json beside safetensors weights


@dataclass(frozen=True)
class LWMConfig:
    """Sizes of an LWM encoder.

    ``lwm_version`` fixes the tokens and the layer form ("1.0" or "1.1"); the other fields default to the
    released sizes of v1.0. Use :meth:`v1_0`, :meth:`v1_1` and :meth:`base`.

    ``seq_len`` counts CLS: 129 for v1.0 on 32x32 channels, 17..513 in the buckets of v1.1.

    positions: "index", one learned vector per token number, as released; "grid", the sum of a vector of the patch's
        row and one of its column (``max_rows`` and ``max_columns`` of them, along antennas and subcarriers), so
        that a place means the same in channels of every size. v1.1 tokens only.
    """

    lwm_version: str = "1.0"
    patch_len: int = 16
    embed_dim: int = 64
    num_layers: int = 12
    num_heads: int = 12
    head_dim: int = 5
    ffn_dim: int = 256
    max_len: int = 129
    dropout: float = 0.1
    input_scale: str = "fixed"  # or "power": see lwm_fast.scaling
    positions: str = "index"  # or "grid"
    max_rows: int = 32  # of patches, with positions="grid" only
    max_columns: int = 256

    def __post_init__(self) -> None:
        if self.lwm_version not in SIZES:
            raise InputError(f"lwm_version={self.lwm_version!r} is unknown; use one of {sorted(SIZES)}")
        if self.patch_len != SIZES[self.lwm_version].patch_len:
            raise InputError(
                f"patch_len={self.patch_len} does not fit lwm_version={self.lwm_version!r}, "
                f"whose tokens hold {SIZES[self.lwm_version].patch_len} values"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or value < 1):
                raise InputError(f"LWMConfig.{field.name}={value!r} must be a positive integer")
        if not 0 <= self.dropout < 1:
            raise InputError(f"LWMConfig.dropout={self.dropout!r} must lie in [0, 1)")
        if self.input_scale not in ("fixed", "power"):
            raise InputError(f'LWMConfig.input_scale={self.input_scale!r} must be "fixed" or "power"')
        if self.positions not in ("index", "grid"):
            raise InputError(f'LWMConfig.positions={self.positions!r} must be "index" or "grid"')
        if self.positions == "grid" and self.lwm_version == "1.0":
            raise InputError(
                'LWMConfig.positions="grid" needs patches of antennas x subcarriers, and those of v1.0 are runs of '
                '16 values; use lwm_version="1.1" or positions="index"'
            )

    @classmethod
    def v1_0(cls, **changes: Any) -> LWMConfig:
        """LWM v1.0: 603,712 parameters, 32x32 channels, 129 tokens."""
        return cls.from_dict({"lwm_version": "1.0", **SIZES["1.0"]._asdict(), **changes})

    @classmethod
    def v1_1(cls, **changes: Any) -> LWMConfig:
        """LWM v1.1: 2,470,304 parameters, channels of any size up to 513 tokens."""
        return cls.from_dict({"lwm_version": "1.1", **SIZES["1.1"]._asdict(), **changes})

    @classmethod
    def base(cls, **changes: Any) -> LWMConfig:
        """The encoder of ``lwm-fast-base``: v1.1's blocks, 6 of them, on channels of unit power and any grid."""
        own = {"num_layers": 6, "dropout": 0.0, "input_scale": "power", "positions": "grid"}
        return cls.v1_1(**{**own, **changes})

    @property
    def sizes(self) -> Sizes:
        """The sizes as :mod:`lwm_fast.reference` takes them."""
        return Sizes(**{name: getattr(self, name) for name in Sizes._fields})

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that :meth:`from_dict` reads back."""
        return {**dataclasses.asdict(self), "format_version": FORMAT_VERSION}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, place: str = "LWMConfig") -> LWMConfig:
        """Build from a mapping; unknown keys are refused with the nearest known name."""
        values = dict(values)
        format_version = values.pop("format_version", FORMAT_VERSION)
        if not isinstance(format_version, int) or format_version > FORMAT_VERSION:
            raise InputError(
                f"{place}: format_version={format_version!r} is newer than this lwm_fast reads "
                f"({FORMAT_VERSION}); update lwm_fast"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                raise InputError(f"{place}: unknown key {key!r}; {hint}")
        return cls(**values)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> LWMConfig:
        """Read config.json as :meth:`LWM.save_pretrained` writes it."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a JSON model configuration: {error}") from error
        if not isinstance(values, dict):
            raise InputError(
                f"{path}: a JSON object of model sizes was expected, not {type(values).__name__}"
            )
        return cls.from_dict(values, place=str(path))
