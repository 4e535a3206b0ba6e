"""The ops together as one encoder layer: under autocast, compiled as one graph, exported."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lwm_fast.kernels.runtime import INTERPRET
from torch import Tensor, nn

from lwm_fast import ops

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twins: not under TRITON_INTERPRET=1")

CU = torch.tensor([0, 17, 18, 40], dtype=torch.int32)
TOTAL, LONGEST = 40, 22


class Layer(nn.Module):
    """Embedding of tokens, one v1.1 layer, the masked head, and the mean of each sequence.

    Large biases keep both ReLUs off their kinks: with three masked rows, one sign that rounding turns shows.
    """

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)

        def weight(*shape: int, shift: float = 0.0, scale: float = 0.1) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy(shift + scale * rng.standard_normal(shape)).float())

        def norm() -> list[nn.Parameter]:
            return [weight(128, shift=1.0), weight(128)]

        self.embedding = nn.ParameterList([weight(128, 32), weight(128), weight(LONGEST, 128), *norm()])
        self.qkv = nn.ParameterList([weight(384, 128), weight(384)])
        self.tail = nn.ParameterList(
            [weight(128, 128), weight(128), *norm(), weight(512, 128), weight(512, shift=4.0), weight(128, 512),
             weight(128), *norm()]
        )  # fmt: skip
        self.head = nn.ParameterList(
            [weight(128, 128), weight(128, shift=4.0), *norm(), weight(32, 128), weight(32)]
        )

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, masked_index: Tensor) -> tuple[Tensor, Tensor]:
        x = ops.patch_embed_tokens(tokens, cu_seqlens, *self.embedding, max_seqlen=LONGEST)
        qkv = ops.linear(x, *self.qkv).unflatten(1, (3, 8, 16))
        attn, _ = ops.attention(qkv, cu_seqlens, LONGEST)
        y = ops.encoder_tail(attn.flatten(1), x, *self.tail, residual=2.0)
        return ops.masked_head(y, masked_index, *self.head), ops.pool(y, cu_seqlens, "mean_with_cls")


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    tokens = np.random.default_rng(5).standard_normal((TOTAL, 32), dtype=np.float32)
    return torch.from_numpy(tokens), CU, torch.tensor([3, 19, 39], dtype=torch.int32)


def _loss(layer: nn.Module) -> Tensor:
    predicted, pooled = layer(*_inputs())
    loss: Tensor = predicted.float().square().sum() + pooled.square().sum()
    return loss


def _gradients(function: Callable[[], Tensor], layer: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(function(), list(layer.parameters())))


def _relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    size = sum(float(w.norm()) ** 2 for w in wanted)
    return (sum(float((f - w).norm()) ** 2 for f, w in zip(found, wanted, strict=True)) / size) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_the_products_and_spares_the_parameters(dtype: torch.dtype) -> None:
    layer = Layer()

    def under_autocast() -> Tensor:
        with torch.autocast("cpu", dtype):
            predicted, pooled = layer(*_inputs())
            assert (predicted.dtype, pooled.dtype) == (dtype, torch.float32)
            return predicted.float().square().sum() + pooled.square().sum()

    found, wanted = _gradients(under_autocast, layer), _gradients(lambda: _loss(layer), layer)
    assert {g.dtype for g in found} == {torch.float32}
    assert 0 < _relative(found, wanted) <= (4e-2 if dtype == torch.bfloat16 else 5e-3)


def test_ops_under_autocast_take_what_torch_ops_take() -> None:
    qkv = torch.randn(TOTAL, 3, 2, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(16, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = ops.attention(qkv, CU, LONGEST)
        assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
        assert ops.attention_cls(qkv, CU).dtype == torch.bfloat16
        assert ops.linear(torch.ones(3, 64), weight).dtype == torch.bfloat16
        assert ops.norm(torch.randn(3, 64), torch.ones(64), torch.zeros(64)).dtype == torch.float32
        wide, _ = ops.attention(qkv.double(), CU, LONGEST)  # as in torch, float64 is left alone
    expected, _ = ops.attention(qkv.bfloat16(), CU, LONGEST)
    assert torch.equal(out, expected)  # the arithmetic inside an op is not autocast's
    assert torch.equal(wide, ops.attention(qkv.double(), CU, LONGEST)[0])


def test_compiles_as_one_graph_with_and_without_autocast() -> None:
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found, wanted = _gradients(lambda: _loss(compiled), layer), _gradients(lambda: _loss(layer), layer)
    assert _relative(found, wanted) <= 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(*_inputs())[0], layer(*_inputs())[0])


def test_exports() -> None:
    layer = Layer().eval()
    program = torch.export.export(layer, _inputs(), strict=False)
    names = {str(node.target) for node in program.graph.nodes if "lwm_fast" in str(node.target)}
    ops_used = {"patch_embed", "linear", "attention", "encoder_tail", "norm", "pool"}
    assert names == {f"lwm_fast.{name}.default" for name in ops_used}
    for value, expected in zip(program.module()(*_inputs()), layer(*_inputs()), strict=True):
        assert torch.equal(value, expected)
