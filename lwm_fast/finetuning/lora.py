"""LoRA through peft: low-rank updates beside the frozen linear layers of the encoder (Hu et al., 2021)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.model import LWM
from lwm_fast.tasks.heads import seeded
from lwm_fast.train_fused import own_weight

TARGETS = {
    "W_Q": "enc_self_attn",
    "W_K": "enc_self_attn",
    "W_V": "enc_self_attn",
    "linear": "enc_self_attn",
    "fc1": "pos_ffn",
    "fc2": "pos_ffn",
}


@dataclass(frozen=True)
class LoRA:
    """W + (alpha / r) B A in chosen linear layers, of which A and B are trained.

    Args:
        r: rank.
        alpha: alpha / r scales the update.
        targets: of "W_Q", "W_K", "W_V", "linear" (attention's output), "fc1", "fc2".
        last: only the last so many layers; None: all.

    Raises:
        InputError: a rank below 1, an unknown target.
    """

    r: int = 4
    alpha: int = 8
    targets: Sequence[str] = ("W_Q", "W_V")
    last: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.r < 1:
            raise InputError(f"LoRA(r={self.r}): the rank must be at least 1")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise InputError(f"LoRA(targets={self.targets}): use some of {', '.join(TARGETS)}")

    def first(self, num_layers: int) -> int:
        """The first layer with adapters.

        Raises:
            InputError: more layers asked for than there are.
        """
        if self.last is None:
            return 0
        if not 1 <= self.last <= num_layers:
            raise InputError(f"LoRA(last={self.last}): this model has {num_layers} layers")
        return num_layers - self.last


def add_adapters(model: LWM, lora: LoRA, seed: int) -> list[nn.Parameter]:
    """Put adapters into the model, in place, and return their parameters; B starts at zero, so nothing changes yet.

    Raises:
        InputError: peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError('freeze="lora" needs peft: pip install "lwm_fast[tasks]"') from error
    first = lora.first(model.config.num_layers)
    names = [
        f"layers.{i}.{TARGETS[name]}.{name}"
        for i in range(first, model.config.num_layers)
        for name in lora.targets
    ]
    pattern = "|".join(
        re.escape(name) for name in names
    )  # whole names: the masked-patch head has a "linear" too
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=f"({pattern})", lora_dropout=0.0)
    with seeded(seed):
        inject_adapter_in_model(config, model)
    return [p for name, p in model.named_parameters() if ".lora_" in name]


def weight_with_adapter(linear: nn.Module) -> Tensor:
    """The weight with which a linear layer, adapted or not, acts; gradients flow into the adapter."""
    if isinstance(linear, nn.Linear):
        return own_weight(linear)
    base = linear.get_submodule("base_layer")
    assert isinstance(base, nn.Linear)
    down, up = (linear.get_submodule(f"{name}.default") for name in ("lora_A", "lora_B"))
    scaling: dict[str, float] = linear.scaling  # type: ignore[assignment]
    return base.weight + scaling["default"] * (own_weight(up) @ own_weight(down))


def merge_adapters(model: LWM) -> None:
    """Replace adapted layers, in place, by plain ones of the same effect, under the released names."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            weight = weight_with_adapter(module).detach()
            base = module.get_submodule("base_layer")
            assert isinstance(base, nn.Linear)
            base.weight.data = weight
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, base)
