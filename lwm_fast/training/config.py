"""`TrainConfig`: everything that a pre-training run depends on except its data, read from YAML."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union

from lwm_fast.errors import InputError
from lwm_fast.training.sections import (
    AuxiliarySection,
    DataSection,
    MaskingSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    ScheduleSection,
)

T = TypeVar("T")
_RECIPES = resources.files("lwm_fast.training") / "recipes"


@dataclass(frozen=True)
class TrainConfig:
    """A pre-training recipe. ``TrainConfig()`` is the release's v1.1 without its warm-up; see ``recipes()``.

    Unknown keys and wrong values are refused with InputError, which names the place and the nearest key.
    """

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    masking: MaskingSection = field(default_factory=MaskingSection)
    auxiliary: AuxiliarySection = field(default_factory=AuxiliarySection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    run: RunSection = field(default_factory=RunSection)

    @classmethod
    def load(cls, source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainConfig:
        """Read a recipe by name ("lwm-v1.1") or path, and apply overrides such as "optimizer.lr=1e-3".

        Raises InputError: no such recipe or file, not YAML, an unknown key, a value of the wrong kind.
        """
        place, values = _read(source)
        for override in overrides:
            _override(values, override)
        return cls.from_dict(values, place=place)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, place: str = "TrainConfig") -> TrainConfig:
        """Build from nested mappings as YAML gives them."""
        return _build(cls, values, place, "")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values that :meth:`from_dict` reads back."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)
        return plain

    def to_yaml(self) -> str:
        """The whole configuration, every default included."""
        import yaml

        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None))


def recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(p.name[: -len(".yaml")] for p in _RECIPES.iterdir() if p.name.endswith(".yaml")))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "optimizer.lr was 0.001 and is now 0.002" for nested mappings."""
    found = []
    for key in [*before, *(k for k in now if k not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old!r} and is now {new!r}")
    return found


def _read(source: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    import yaml

    name, path = os.fspath(source), Path(source)
    if name in recipes():
        text = (_RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            near = difflib.get_close_matches(name, recipes(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"recipes: {', '.join(recipes())}"
            raise InputError(f"{name}: neither a recipe nor a readable file ({error}); {hint}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{name}: sections of settings were expected, not a {type(values).__name__}")
    return name, values or {}


def _override(values: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not last or not path:
        raise InputError(f"--set {override}: section.key=value was expected, such as optimizer.lr=1e-3")
    section = values
    for part in path:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {override}: {part} is a value, not a section")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not valid YAML") from error


def _build(kind: type[T], values: Any, place: str, prefix: str) -> T:
    if not isinstance(values, Mapping):
        raise InputError(
            f"{place}: {prefix.rstrip('.') or 'the top level'} must be a section, not {values!r}"
        )
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise InputError(f"{place}: unknown key {prefix + str(key)!r}; {hint}")
    made = {key: _value(hints[key], value, place, f"{prefix}{key}") for key, value in values.items()}
    try:
        return kind(**made)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _value(kind: Any, value: Any, place: str, key: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build(kind, {} if value is None else value, place, f"{key}.")
    try:
        return _convert(kind, value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: {key}={value!r}: {_describe(kind)} was expected") from error


def _convert(kind: Any, value: Any) -> Any:
    """The value as `kind`, or TypeError/ValueError. YAML reads 1e-4 as text: numbers in text are taken."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        for candidate in inner:
            try:
                return _convert(candidate, value)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if kind is type(None):
        if value is not None:
            raise TypeError
        return None
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise TypeError
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_convert(k, v) for k, v in zip(kinds, value, strict=True))
    if kind is float and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise TypeError
    return value


def _describe(kind: Any) -> str:
    if kind is type(None):
        return "null"
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return f"a list of {_describe(inner[0])}" + ("" if inner[-1] is Ellipsis else f", {len(inner)} long")
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
