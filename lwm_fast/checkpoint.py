"""Reading and writing weights: released ``.pth`` files, safetensors, folders and hub ids.

Nothing is ever unpickled beyond tensors (``weights_only=True``), and the model version is recognised from
the tensors, never from a file's name.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from lwm_fast import weights
from lwm_fast.config import LWMConfig
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path, check_file, sha256_of
from lwm_fast.links import LinkHeads
from lwm_fast.reference import SIZES

logger = logging.getLogger("lwm_fast")

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


@dataclass(frozen=True)
class WeightsInfo:
    """Where a model's weights came from; stored in every output made with them."""

    source: str
    sha256: str
    file_format: str
    denormals_flushed: int = 0


def resolve(
    source: str | os.PathLike[str], *, revision: str | None = None, filename: str | None = None
) -> Path:
    """The weights file that ``source`` (a file, a folder, a name of `lwm_fast.weights` or a hub id) stands for.

    What lies at this path comes before a name.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _only_weights(path, filename, place=str(path))
    if (shipped := weights.folder_of(source)) is not None:
        return _only_weights(shipped, filename, place=str(source))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in _SUFFIXES:
        return _only_weights(_download(str(source), revision), filename, place=f"hub repository {source}")
    raise InputError(
        f"{source}: no such file or folder; give a weights file, a folder, a hub id such as wi-lab/lwm, or the name "
        f"of weights that come with the package: {', '.join(weights.NAMES)}"
    )


def _only_weights(folder: Path, filename: str | None, *, place: str) -> Path:
    if filename is not None:
        if not (folder / filename).is_file():
            raise InputError(f"{place}: holds no file {filename!r}")
        return folder / filename
    if (folder / WEIGHTS_NAME).is_file():
        return folder / WEIGHTS_NAME
    for suffix in _SUFFIXES:  # safetensors first
        found = sorted(p for p in folder.rglob(f"*{suffix}") if p.is_file() and p.name != LinkHeads.NAME)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(p.relative_to(folder)) for p in found)
            raise InputError(f"{place}: several weights files ({names}); name one with filename=")
    raise InputError(f"{place}: holds no weights file ({', '.join(_SUFFIXES)})")


def _download(repo: str, revision: str | None) -> Path:
    import huggingface_hub

    patterns = [f"*{suffix}" for suffix in _SUFFIXES] + [CONFIG_NAME]
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds; each becomes one clear line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{repo}: no such local path, and the hub could not give it ({type(error).__name__}: {reason}); "
            "check the name and the network, or give a downloaded file"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by their released names: wrappers and DataParallel prefixes are removed."""
    check_file(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not loaded, because it holds more than tensors and could run code when unpickled "
            f"({str(error).splitlines()[0]}); ask for a state_dict or safetensors file from its author"
        ) from error
    except (RuntimeError, EOFError, OSError, BadZipFile, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: truncated or not a PyTorch weights file ({reason}); fetch it again"
        ) from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state_dict of named tensors")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: a dict without tensors (keys: {', '.join(map(str, list(content)[:5]))})")
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def recognise(state: dict[str, Tensor], place: str) -> LWMConfig:
    """The configuration that a state_dict's tensors have; raises InputError when they are not an LWM's.

    Head counts cannot be read off the shapes: the release's are assumed (12 heads in v1.0, 8 in v1.1). For positions of
    rows and columns ``LWMConfig.base``'s other fields are assumed, its input_scale among them.
    """
    if "layers.0.norm1.alpha" in state:
        version = "1.1"
    elif "layers.0.norm.alpha" in state:
        version = "1.0"
    else:
        some = ", ".join(list(state)[:4])
        raise InputError(
            f"{place}: not LWM weights: no layers.0.norm(1).alpha among its {len(state)} tensors ({some}, ...)"
        )
    try:
        embed_dim, patch_len = state["embedding.proj.weight"].shape
        inner = state["layers.0.enc_self_attn.W_Q.weight"].shape[0]
        ffn_dim = state["layers.0.pos_ffn.fc1.weight"].shape[0]
        table: dict[str, Any]
        if grid := "embedding.pos_embed.rows" in state:
            table = {f"max_{part}": len(state[f"embedding.pos_embed.{part}"]) for part in ("rows", "columns")}
        else:
            table = {"max_len": len(state["embedding.pos_embed.weight"])}
    except KeyError as error:
        raise InputError(
            f"{place}: LWM v{version} weights without the tensor {error}; the file is incomplete"
        ) from error
    num_layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    num_heads = SIZES[version].num_heads
    if inner % num_heads:
        raise InputError(
            f"{place}: {inner} query features do not divide into the release's {num_heads} heads; give config="
        )
    made = LWMConfig.base if grid else LWMConfig
    return made(
        lwm_version=version, patch_len=patch_len, embed_dim=embed_dim, num_layers=num_layers, num_heads=num_heads,
        head_dim=inner // num_heads, ffn_dim=ffn_dim, **table,
    )  # fmt: skip


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], place: str) -> dict[str, Tensor]:
    """float32, contiguous copies in the model's order; missing, extra or misshapen tensors are named."""
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"missing {_some(missing)}")
    if extra := [name for name in state if name not in expected]:
        problems.append(f"unexpected {_some(extra)}")
    for name in expected:
        if name in state and state[name].shape != expected[name].shape:
            problems.append(f"{name} is {tuple(state[name].shape)}, not {tuple(expected[name].shape)}")
        elif name in state and not state[name].is_floating_point():
            problems.append(f"{name} is {state[name].dtype}, not a floating-point tensor")
    if problems:
        raise InputError(f"{place}: weights that do not fit the model: {'; '.join(problems[:6])}")
    clean = {name: state[name].to(torch.float32).contiguous() for name in expected}
    if bad := [name for name, value in clean.items() if not torch.isfinite(value).all()]:
        raise InputError(f"{place}: NaN or Inf in {_some(bad)}; the checkpoint is damaged")
    return clean


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def flush_denormals(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Zero the subnormal entries. They are dead weights (v1.0 holds 104,876) that slow CPUs down 4x."""
    tiny = torch.finfo(torch.float32).tiny
    count, flushed = 0, {}
    for name, value in state.items():
        denormal = (value != 0) & (value.abs() < tiny)
        count += int(denormal.sum())
        flushed[name] = value.masked_fill(denormal, 0.0)
    return flushed, count


def load(
    path: Path, source: str, *, config: LWMConfig | None = None
) -> tuple[LWMConfig, dict[str, Tensor], WeightsInfo]:
    """Configuration, clean float32 tensors (not yet checked against a model) and provenance of a weights file.

    source: what the caller asked for, which the provenance keeps.
    """
    state = read_state_dict(path)
    beside = path.parent / CONFIG_NAME
    if config is None and path.suffix == ".safetensors" and beside.is_file() and _is_ours(beside):
        config = LWMConfig.from_json(beside)
    config = config or recognise(state, str(path))
    state, count = flush_denormals(state)
    if count:
        logger.info("%s: %d denormal weights flushed to zero (no output changes)", path, count)
    return config, state, WeightsInfo(source, sha256_of(path), path.suffix.lstrip("."), count)


def load_link_heads(path: Path, config: LWMConfig) -> LinkHeads | None:
    """The link heads beside a ``model.safetensors``, None where there are none."""
    if path.name != WEIGHTS_NAME or not (path.parent / LinkHeads.NAME).is_file():
        return None
    heads = LinkHeads.from_pretrained(path.parent)
    if heads.embed_dim != config.embed_dim:
        raise InputError(
            f"{path.parent / LinkHeads.NAME}: reads embeddings of {heads.embed_dim} numbers, and the model beside it "
            f"makes {config.embed_dim}; take both files of one training"
        )
    return heads


def _is_ours(path: Path) -> bool:
    """Other libraries write config.json too; ours names the LWM version."""
    try:
        return "lwm_version" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False


def save(
    folder: str | os.PathLike[str],
    config: LWMConfig,
    state: dict[str, Tensor],
    info: WeightsInfo | None,
    link_heads: LinkHeads | None = None,
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and any link heads into ``folder``, each whole or not at all.

    The folder is made if absent; link heads of weights that lay there before are removed.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from error
    notes = {"format": "pt", "lwm_version": config.lwm_version}
    if info is not None:
        notes |= {
            "source": info.source,
            "source_sha256": info.sha256,
            "denormals_flushed": str(info.denormals_flushed),
        }
    (folder / LinkHeads.NAME).unlink(missing_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in state.items()},
            temporary,
            notes,
        )
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    if link_heads is not None:
        link_heads.save_pretrained(folder)
    return folder / WEIGHTS_NAME
