"""The model that a run starts from."""

from __future__ import annotations

import torch

from lwm_fast import reference
from lwm_fast.errors import InputError
from lwm_fast.links import LinkHeads
from lwm_fast.model import LWM
from lwm_fast.training.sections import AuxiliarySection, ModelSection

_GAIN = 0.55  # of values and feed-forward at the start of a "shallow" model
_QUERY_GAIN = 1.5
_PERIODS = tuple(2.0**k for k in range(2, 11))  # of the first positions: rows of patches are 8..256 long
_GRID_PERIODS = tuple(2.0**k for k in range(2, 8))  # of positions by rows (up to 32) and columns (up to 256)
_POSITION_GAIN, _POSITION_NOISE = 0.5, 0.2


def initial_model(section: ModelSection, auxiliary: AuxiliarySection | None = None) -> LWM:
    """Weights to start from: read, or random by the section's seed; link heads too where `auxiliary` trains them.

    "shallow" lets a deep stack learn soon, where torch's own start predicts nothing for tens of thousands of
    samples. Layers start close to the identity (values and feed-forward scaled by 0.55). Positions start as
    waves of periods 4, 8, ..., 1024: neighbours on a row of patches are alike, and so are neighbours on a column,
    rows being powers of two long. Of positions by rows and columns each table starts as such waves by itself.
    Keys equal queries, so tokens attend to tokens at positions like their own.

    Raises InputError: weights that cannot be read, or that have other sizes than the section asks for; none, where
    only heads are to learn.
    """
    config = section.lwm_config()
    if auxiliary is not None and auxiliary.heads_only and section.weights is None:
        raise InputError(
            "auxiliary.heads_only=true: model.weights must name the encoder that is read, a file, folder or hub id"
        )
    if section.weights is not None:
        model = LWM.from_pretrained(section.weights)
        if model.config != config:
            raise InputError(
                f"model.weights={section.weights}: holds {model.config}, and the recipe asks for {config}; "
                "make the recipe's model section fit"
            )
    else:
        model = LWM.random(config, seed=section.seed)
        if section.init == "shallow":
            _make_shallow(model, torch.Generator().manual_seed(section.seed + 1))
    if auxiliary is None or not auxiliary.weight:
        model.link_heads = None  # they would not learn, and not fit what does
    elif model.link_heads is None:
        model.link_heads = LinkHeads.random(config.embed_dim, seed=auxiliary.seed)
    return model


@torch.no_grad()
def _make_shallow(model: LWM, generator: torch.Generator) -> None:
    positions = model.embedding.pos_embed
    if isinstance(positions, reference.GridPositions):
        _make_waves(positions.rows, _GRID_PERIODS, generator)
        _make_waves(positions.columns, _GRID_PERIODS, generator)
    else:
        _make_waves(positions.weight[1:], _PERIODS, generator)  # [max_len, D], N(0, 1); row 0 is CLS
    for layer in model.layers:
        assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
        attention, ffn = layer.enc_self_attn, layer.pos_ffn
        for linear in (attention.W_V, attention.linear, ffn.fc1, ffn.fc2):
            linear.weight.mul_(_GAIN)
        attention.W_Q.weight.mul_(_QUERY_GAIN)
        attention.W_K.weight.copy_(attention.W_Q.weight)


def _make_waves(table: torch.Tensor, periods: tuple[float, ...], generator: torch.Generator) -> None:
    """Positions [n, D] of N(0, 1) become a mixture of waves and a little of what they were, in place."""
    place = torch.arange(len(table))[:, None] * (2 * torch.pi / torch.tensor(periods))
    waves = torch.cat([place.cos(), place.sin()], 1)  # [n, 2 * periods]
    mix = torch.randn(waves.shape[1], table.shape[1], generator=generator)
    table.copy_(_POSITION_NOISE * table + _POSITION_GAIN * len(periods) ** -0.5 * (waves @ mix))
