"""ops.patch_embed, patch_embed_tokens and patch_targets in plain torch: values, gradients, graphs, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lwm_fast.kernels import patch_embed as kernel
from lwm_fast.kernels import patches
from lwm_fast.kernels.runtime import INTERPRET
from support.embed_cases import NAMES, SMALL_SIZES, gradients, leaves, make, relative_error
from torch import Tensor

from lwm_fast import InputError, ops

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twin: not under TRITON_INTERPRET=1")


@pytest.mark.parametrize("grids", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_channels_equal_reference_with_every_gradient(version: str, masked: bool, grids: bool) -> None:
    case = make(version, SMALL_SIZES[version], masked=masked, grids=grids)
    own = leaves(case.parameters, torch.float64)
    y = ops.patch_embed(*case.source(), *own, **case.keywords())
    expected = case.plain(case.tokens(), own)
    for what, value, other in zip(
        ("y", *NAMES), [y, *gradients(y, own)], [expected, *gradients(expected, own)], strict=True
    ):
        assert relative_error(value, other) < 1e-12, what


@pytest.mark.parametrize("grids", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_tokens_equal_reference_with_every_gradient(version: str, masked: bool, grids: bool) -> None:
    case = make(version, SMALL_SIZES[version], masked=masked, grids=grids)
    tokens, *own = leaves([case.tokens(), *case.parameters], torch.float64)
    y = ops.patch_embed_tokens(tokens, case.cu_seqlens, *own, **case.token_keywords())
    expected = case.plain(tokens, own)
    for what, value, other in zip(
        ("y", "tokens", *NAMES),
        [y, *gradients(y, [tokens, *own])],
        [expected, *gradients(expected, [tokens, *own])],
        strict=True,
    ):
        assert relative_error(value, other) < 1e-12, what


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_targets_are_the_unmasked_patches_bit_for_bit(version: str) -> None:
    case = make(version, SMALL_SIZES[version])
    index = torch.randperm(case.total, generator=torch.Generator().manual_seed(0))
    is_cls = torch.isin(index, case.cu_seqlens[:-1])
    targets = ops.patch_targets(*case.source(), index, version=version, scale=case.scale)
    assert torch.equal(targets, torch.where(is_cls[:, None], 0.0, case.tokens()[index]))


def test_one_scale_and_one_cls_are_broadcast() -> None:
    case = make("1.1", SMALL_SIZES["1.1"])
    keywords = {**case.keywords(), "scale": 3e4, "cls": 0.25}
    case.scale, case.cls = torch.full_like(case.scale, 3e4), torch.full((32,), 0.25)
    y = ops.patch_embed(*case.source(), *case.parameters, **keywords)
    torch.testing.assert_close(y, case.plain(case.tokens(), case.parameters))


def test_half_precision_channels_and_output() -> None:
    case = make("1.0", [(4, 16), (8, 8)])
    case.csi, case.scale = (case.csi * 1e5).to(torch.complex32), torch.ones(2)
    y = ops.patch_embed(*case.source(), *case.parameters, **case.keywords(), dtype=torch.bfloat16)
    assert y.dtype == torch.bfloat16
    case.csi = case.csi.to(torch.complex64)
    assert relative_error(y, case.plain(case.tokens(), case.parameters)) < 4e-3


def test_no_sequences() -> None:
    case = make("1.0", [])
    own = leaves(case.parameters, torch.float32)
    y = ops.patch_embed(*case.source(), *own, **case.keywords())
    assert y.shape == (0, 64)
    assert not any(gradient.any() for gradient in gradients(y, own))


def _arguments(
    version: str, from_tokens: bool, masked: bool, grids: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Arguments of the forward and of the backward op."""
    case = make(version, SMALL_SIZES[version], masked=masked, grids=grids)
    number = patches.TOKENS if from_tokens else {"1.0": patches.V10, "1.1": patches.V11}[version]
    values = case.tokens().requires_grad_() if from_tokens else torch.view_as_real(case.csi)
    layout = (None,) * 4 if from_tokens else (case.offsets, case.shape, case.scale, case.cls)
    plan = (case.action, case.sample_id, case.position_start)
    source = (values, case.cu_seqlens, *layout, *plan, number, 7, 3, case.max_seqlen)
    own = leaves(case.parameters, torch.float32)
    forward = (*source, case.total, *own, torch.float32)
    plain = [t.detach() if isinstance(t, Tensor) else t for t in source]
    grad = torch.ones(case.total, len(own[1]))
    return forward, (grad, *plain, *(p.detach() for p in own[:4]), from_tokens)


@pytest.mark.parametrize(
    ("version", "from_tokens", "masked", "grids"),
    [
        ("1.0", False, True, False),
        ("1.1", False, False, False),
        ("1.1", True, True, False),
        ("1.1", False, True, True),
        ("1.1", True, False, True),
    ],
)
def test_opcheck(version: str, from_tokens: bool, masked: bool, grids: bool) -> None:
    forward, backward = _arguments(version, from_tokens, masked, grids)
    torch.library.opcheck(kernel.patch_embed_op, forward)
    torch.library.opcheck(kernel.patch_embed_backward_op, backward)


def test_opcheck_of_targets() -> None:
    case = make("1.1", SMALL_SIZES["1.1"])
    index = torch.arange(case.total, dtype=torch.int32)
    torch.library.opcheck(
        patches.patch_targets_op,
        (torch.view_as_real(case.csi), *case.source()[1:3], case.scale, case.cu_seqlens, index, 11, 32),
    )


@pytest.mark.parametrize("grids", [False, True])
def test_compiles_whole_with_gradients(grids: bool) -> None:
    case = make("1.1", SMALL_SIZES["1.1"], masked=True, grids=grids)
    own = leaves(case.parameters, torch.float32)
    keywords = case.keywords()

    def loss(*parameters: Tensor) -> Tensor:
        return ops.patch_embed(*case.source(), *parameters, **keywords).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, wanted = (torch.autograd.grad(f(*own), own) for f in (compiled, loss))
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2.0"}, "version='2.0'"),
        ({"seed": -1}, "seed: got -1"),
        ({"epoch": 1 << 32}, "epoch: got 4294967296"),
        ({"max_seqlen": 10**6}, "too short for max_seqlen=1000000"),
        ({"cls": torch.zeros(5)}, r"cls has shape \[5\]"),
        ({"scale": torch.ones(3)}, r"scale has shape \[3\]"),
        ({"sample_id": None}, "action needs sample_id"),
        ({"action": torch.zeros(3, dtype=torch.uint8)}, r"action has shape \[3\]"),
        ({"position_start": torch.zeros(7)}, r"position_start is torch\.float32, expected torch\.int32"),
        (
            {"position_start": torch.zeros(6, dtype=torch.int32)},
            r"position_start has shape \[6\], expected \[7\]",
        ),
        (
            {"position_start": torch.tensor([0, 90, 0, 0, 0, 0, 0], dtype=torch.int32)},
            r"position_start\[1\] = 90 puts the 17 tokens of sequence 1 outside .* of 24 rows",
        ),
        ({"position_start": torch.full((7,), -1, dtype=torch.int32)}, r"position_start\[0\] = -1 puts the 3"),
    ],
)
def test_refuses_wrong_keywords(change: dict[str, Any], message: str) -> None:
    case = make("1.1", SMALL_SIZES["1.1"], masked=True)
    with pytest.raises(InputError, match=message):
        ops.patch_embed(*case.source(), *case.parameters, **{**case.keywords(), **change})


def test_refuses_wrong_tensors() -> None:
    case = make("1.0", SMALL_SIZES["1.0"])
    csi, offsets, shape, cu_seqlens = case.source()
    weight, *rest = case.parameters
    keywords = case.keywords()
    with pytest.raises(InputError, match=r"csi is torch\.float32"):
        ops.patch_embed(csi.real, offsets, shape, cu_seqlens, weight, *rest, **keywords)
    with pytest.raises(InputError, match=r"offsets is torch\.int32, expected torch\.int64"):
        ops.patch_embed(csi, offsets.int(), shape, cu_seqlens, weight, *rest, **keywords)
    with pytest.raises(InputError, match=r"weight has shape \[64, 15\], expected \[64, 16\]"):
        ops.patch_embed(csi, offsets, shape, cu_seqlens, weight[:, 1:], *rest, **keywords)
    with pytest.raises(InputError, match="flatten the batch"):
        ops.patch_embed_tokens(torch.zeros(2, 3, 16), cu_seqlens, weight, *rest, max_seqlen=3)
    with pytest.raises(InputError, match=r"masked_index is torch\.float32"):
        ops.patch_targets(csi, offsets, shape, cu_seqlens, torch.zeros(3), version="1.0")
