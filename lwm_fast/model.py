"""`LWM`: the released model as an ``nn.Module``, with fast forward, weights from anywhere, and ``encode``."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import backends, checkpoint, reference
from lwm_fast.checkpoint import WeightsInfo
from lwm_fast.config import LWMConfig
from lwm_fast.encoder import EncoderWeights, prepare
from lwm_fast.errors import InputError
from lwm_fast.positions import batch_shape, has_grid, interpolated, length_remedy
from lwm_fast.weights import DEFAULT

if TYPE_CHECKING:
    from lwm_fast.encode import Embeddings, Source
    from lwm_fast.links import LinkHeads

Derived = TypeVar("Derived")


class LWM(reference.LWM):
    """Large Wireless Model encoder with its masked-patch head.

    The parameters, their ``state_dict`` keys and ``forward``'s return values are the released ones, so
    released checkpoints and training loops fit. New models start from torch's default initialisation;
    use :meth:`from_pretrained` for trained weights.
    """

    def __init__(self, config: LWMConfig | None = None) -> None:
        config = config or LWMConfig.v1_0()
        super().__init__(config.lwm_version, config.sizes)
        self.config = config
        self.weights_info: WeightsInfo | None = None
        self._derived: dict[str, tuple[tuple[Any, ...], Any]] = {}
        self.link_heads: LinkHeads | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "link_heads":  # read-outs beside the model: not among its parameters and released keys
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # ------------------------------------------------------------------------------- making and keeping

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] = DEFAULT,
        *,
        revision: str | None = None,
        filename: str | None = None,
        config: LWMConfig | None = None,
    ) -> LWM:
        """Load weights and return the model in ``eval`` mode on the CPU.

        source: ``"lwm-fast-base"``, which comes with the package; a ``.pth``/``.pt`` file (DataParallel prefixes
            and optimizer-wrapped dicts are understood; only tensors are unpickled), a ``.safetensors`` file, a folder
            that holds one, or a hub id such as ``"wi-lab/lwm"`` or ``"wi-lab/lwm-v1.1"`` (cached by
            huggingface_hub; ``HF_HUB_OFFLINE=1`` is honoured).
        revision: the hub revision. filename: which file, where a folder or repository holds several.
        config: sizes that tensors cannot tell (another number of heads than the release's).

        The version is recognised from the tensors. Denormal weights are flushed to zero (no output changes;
        ``weights_info.denormals_flushed`` counts them). Raises InputError for anything that is not LWM weights.
        """
        path = checkpoint.resolve(source, revision=revision, filename=filename)
        found, state, info = checkpoint.load(path, str(source), config=config)
        with torch.device("meta"):
            model = cls(found)
        model.load_state_dict(checkpoint.check_state(state, model.state_dict(), str(source)), assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.weights_info = info
        model.link_heads = checkpoint.load_link_heads(path, found)
        return model.eval()

    @classmethod
    def random(cls, config: LWMConfig | None = None, *, seed: int = 0) -> LWM:
        """A model with reproducible random weights (torch's default distributions), for trying things out.

        The global random state is not touched. ``weights_info`` says that the weights are random.
        """
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    bound = 1.0 / math.sqrt(module.in_features)
                    module.weight.uniform_(-bound, bound, generator=generator)
                    if module.bias is not None:
                        module.bias.uniform_(-bound, bound, generator=generator)
                elif isinstance(module, torch.nn.Embedding):
                    module.weight.normal_(generator=generator)
                elif isinstance(module, reference.GridPositions):
                    module.cls.normal_(generator=generator)
                    for part in (module.rows, module.columns):  # their sums vary as CLS does
                        part.normal_(std=0.5**0.5, generator=generator)
                elif isinstance(module, reference.Norm):
                    module.alpha.fill_(1.0)
                    module.bias.zero_()
            model.decoder_bias.zero_()
        model.weights_info = WeightsInfo(f"random weights, seed {seed}", "", "none")
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``model.safetensors`` and ``config.json`` into ``folder``; returns the weights' path.

        Link heads, where the model has some, become ``link_heads.safetensors`` beside them.
        """
        return checkpoint.save(folder, self.config, self.state_dict(), self.weights_info, self.link_heads)

    def resize_positions(self, max_len: int) -> LWM:
        """Change, in place, how many tokens (CLS included) the position table covers; returns the model.

        The CLS position is kept and the patch positions are interpolated linearly. The model was not
        trained on these positions: a warning says so. Make the optimizer after this call.
        Raises InputError for a model whose positions are rows and columns: see :meth:`resize_grid`.
        """
        if has_grid(self):
            raise InputError(
                f"resize_positions({max_len!r}): this model has positions of rows and columns, not one table; use "
                "model.resize_grid(max_rows, max_columns, max_len=...)"
            )
        if not isinstance(max_len, int) or max_len < 2:
            raise InputError(f"max_len={max_len!r} must be an integer of at least 2 (CLS and one patch)")
        old = self.embedding.pos_embed.weight
        if max_len == old.shape[0]:
            return self
        warnings.warn(
            f"positions interpolated from {old.shape[0]} to {max_len} tokens; the weights were not trained on them, "
            "fine-tune or check the embeddings before relying on them",
            stacklevel=2,
        )
        with torch.no_grad():
            table = torch.cat([old[:1], interpolated(old[1:], max_len - 1)])
        self.embedding.pos_embed = torch.nn.Embedding.from_pretrained(table, freeze=not old.requires_grad)
        return self._with_config(max_len=max_len)

    def resize_grid(
        self, max_rows: int | None = None, max_columns: int | None = None, *, max_len: int | None = None
    ) -> LWM:
        """Change, in place, the largest grid of patches and the longest sequence; returns the model.

        max_rows: of patches, along antennas; max_columns: along subcarriers; None keeps what there is. Their
        positions are stretched linearly over the new number. max_len: tokens of a sequence, CLS included.
        The model was not trained on what comes out: a warning says so. Make the optimizer after this call.
        Raises InputError for a model whose positions go by token number: see :meth:`resize_positions`.
        """
        asked = {"max_rows": max_rows, "max_columns": max_columns, "max_len": max_len}
        changes = {name: n for name, n in asked.items() if n not in (None, getattr(self.config, name))}
        if not has_grid(self):
            raise InputError(
                "resize_grid: this model's positions go by token number; use model.resize_positions(max_len)"
            )
        new = LWMConfig.from_dict({**self.config.to_dict(), **changes})  # refuses what is no positive integer
        if not changes:
            return self
        warnings.warn(
            "resized: " + ", ".join(f"{name} {getattr(self.config, name)} to {n}" for name, n in changes.items())
            + "; the weights were not trained on these sizes, fine-tune or check the embeddings before relying on them",
            stacklevel=2,
        )  # fmt: skip
        grid = self.embedding.pos_embed
        for name, count in (("rows", new.max_rows), ("columns", new.max_columns)):
            old = getattr(grid, name)
            if len(old) != count:
                with torch.no_grad():
                    table = interpolated(old, count)
                setattr(grid, name, torch.nn.Parameter(table, requires_grad=old.requires_grad))
        return self._with_config(**changes)

    def _with_config(self, **changes: Any) -> LWM:
        self.config = LWMConfig.from_dict({**self.config.to_dict(), **changes})
        self.sizes = self.config.sizes
        return self

    # ------------------------------------------------------------------------------------------ running

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder_bias.device

    def prepared(self, dtype: torch.dtype = torch.float32) -> EncoderWeights:
        """Weights folded for inference; made once and again whenever a parameter has changed or moved."""
        return self.derived(f"folded {dtype}", lambda: prepare(self, dtype))

    def derived(self, name: str, make: Callable[[], Derived]) -> Derived:
        """What ``make`` gives without gradients, kept under a name until a parameter has changed or moved."""
        # Tensors made under inference_mode keep no version; they cannot be trained either.
        state = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version, p.device) for p in _parameters(self)
        )
        if name not in self._derived or self._derived[name][0] != state:
            with torch.no_grad():
                self._derived[name] = (state, make())
        made: Derived = self._derived[name][1]
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}  # a cache: neither copied nor pickled

    def forward(
        self,
        input_ids: Tensor,
        masked_pos: Tensor | None = None,
        *,
        shape: reference.Shape | None = None,
        return_attention: bool | Sequence[int] = False,
    ) -> tuple[Tensor | list[Tensor] | None, ...]:
        """The released forward: see :class:`lwm_fast.reference.LWM` for shapes and return values.

        input_ids float [B, S, patch_len] with CLS first; masked_pos int64 [B, M] (CLS counts as 0).
        shape: (num_antennas, num_subcarriers) of the channels, or int [B, 2] of each: what positions="grid" needs;
            released models do not look at it.
        return_attention: True for the attention weights of all layers, or the numbers of some layers, whose
            maps come in that order. They cost B*H*S*S floats a layer and are made only when asked for.
        """
        self._check_tokens(input_ids, masked_pos)
        shapes = batch_shape(self.config, shape, *input_ids.shape[:2])
        layers = self._layers_asked_for(return_attention)
        backend = backends.select(self.device, training=self.training, config=self.config)
        if layers is None:
            x, maps = backend.forward(self, input_ids, shapes), None
        else:
            x, maps = backend.forward_with_maps(self, input_ids, layers, shapes)
        logits = None if masked_pos is None else self.head(x, masked_pos)
        if self.version == "1.0":
            return logits, x
        return (x, maps) if masked_pos is None else (logits, x, maps)

    def _layers_asked_for(self, return_attention: bool | Sequence[int]) -> list[int] | None:
        if isinstance(return_attention, bool):
            return list(range(self.config.num_layers)) if return_attention else None
        layers = list(return_attention)
        if bad := [i for i in layers if not 0 <= i < self.config.num_layers]:
            raise InputError(
                f"return_attention={layers}: there is no layer {bad[0]}; this model has 0..{self.config.num_layers - 1}"
            )
        return layers

    def _check_tokens(self, tokens: Tensor, masked_pos: Tensor | None) -> None:
        c = self.config
        if tokens.ndim != 3 or tokens.shape[2] != c.patch_len or not tokens.is_floating_point():
            raise InputError(
                f"input_ids is {tokens.dtype} {tuple(tokens.shape)}; LWM v{c.lwm_version} takes real tokens "
                f"[batch, seq_len, {c.patch_len}] as lwm_fast.tokenize(csi, version={c.lwm_version!r}) makes them"
            )
        if not 1 <= tokens.shape[1] <= c.max_len:
            raise InputError(
                f"input_ids holds {tokens.shape[1]} tokens; this model has positions for 1..{c.max_len} "
                f"({length_remedy(c, 'max_len')} lifts the limit)"
            )
        if masked_pos is not None and (masked_pos.ndim != 2 or masked_pos.shape[0] != tokens.shape[0]):
            raise InputError(
                f"masked_pos is {tuple(masked_pos.shape)}; [{tokens.shape[0]}, num_masked] was expected"
            )

    def predict(self, rows: Tensor) -> Tensor:
        """The masked-patch head on chosen token outputs: [M, embed_dim] -> predicted patches [M, patch_len]."""
        patches: Tensor = self.decoder(self.norm(F.relu(self.linear(rows)))) + self.decoder_bias
        return patches

    def encode(self, source: Source, pool: str = "cls", **options: Any) -> Embeddings:
        """Embeddings of channels: ``model.encode(csi, pool="cls")``. See :func:`lwm_fast.encode.encode`."""
        from lwm_fast.encode import encode

        return encode(self, source, pool, **options)


def _parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """``list(module.parameters())`` in a fifth of its time, which every call of the model would feel."""
    found, waiting = [], [module]
    while waiting:
        inner = waiting.pop()
        found += [parameter for parameter in inner._parameters.values() if parameter is not None]
        waiting += [child for child in inner._modules.values() if child is not None]
    return found
