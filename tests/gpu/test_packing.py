"""A sequence's bits do not depend on what it is packed with, and no number of sequences is too large."""

from __future__ import annotations

import pytest
import torch
from support import gpu_cases
from support.attention_cases import plain_attention
from support.embed_cases import relative_error
from torch import Tensor

from lwm_fast import ops

LENGTHS = [129, 17, 1, 513, 33, 17, 257, 65]


def attention_with_gradient(qkv: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    cu = torch.tensor([0, *lengths], device=qkv.device).cumsum(0).int()
    own = qkv.detach().requires_grad_()
    out, lse = ops.attention(own, cu, max(lengths))
    (grad,) = torch.autograd.grad(out, own, out.detach())
    return out.detach(), lse.detach().T, grad


@pytest.mark.parametrize("dtype", gpu_cases.DTYPES, ids=str)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_attention_alone_and_packed(device: torch.device, version: str, dtype: torch.dtype) -> None:
    qkv = gpu_cases.attention(version, device, tuple(LENGTHS)).leaves["qkv"].to(dtype)
    packed = attention_with_gradient(qkv, LENGTHS)
    row = 0
    for length in LENGTHS:
        alone = attention_with_gradient(qkv[row : row + length].clone(), [length])
        for mine, ours in zip(alone, packed, strict=True):
            assert torch.equal(mine, ours[row : row + length]), length
        row += length


@pytest.mark.parametrize("dtype", gpu_cases.DTYPES, ids=str)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_tail_of_some_tokens_alone(device: torch.device, version: str, dtype: torch.dtype) -> None:
    case = gpu_cases.encoder_tail(version, device)
    leaves = case.at(dtype)
    tokens = len(leaves["x"])
    sample = torch.arange(tokens, device=device) // 129
    token = (torch.arange(tokens, device=device) % 129).int()

    def tail(rows: slice) -> tuple[Tensor, ...]:
        own = [x[rows].detach().requires_grad_() for x in (leaves["attn"], leaves["x"])]
        rest = list(leaves.values())[2:]
        residual = 1.0 if version == "1.0" else 2.0
        y = ops.encoder_tail(
            *own, *rest, residual=residual, dropout=0.1, seed=7, layer=3, sample_id=sample[rows], token_id=token[rows]
        )  # fmt: skip
        return y.detach(), *torch.autograd.grad(y, own, y.detach())

    for mine, ours in zip(tail(slice(300, 411)), tail(slice(0, tokens)), strict=True):
        assert torch.equal(mine, ours[300:411])


def test_more_than_65536_sequences(device: torch.device) -> None:
    batch, length = 70_000, 5
    qkv = torch.randn((batch * length, 3, 8, 16), generator=torch.Generator().manual_seed(0)).to(device)
    found = attention_with_gradient(qkv, [length] * batch)
    last = qkv[-8 * length :].clone()
    for mine, ours in zip(attention_with_gradient(last, [length] * 8), found, strict=True):
        assert torch.equal(mine, ours[-8 * length :])
    cu = torch.arange(0, 9 * length, length, dtype=torch.int32, device=device)
    exact, _ = plain_attention(last.double(), cu)
    assert relative_error(found[0][-8 * length :], exact) <= 3e-6


@pytest.mark.slow
def test_more_entries_than_32_bits_count(cuda: torch.device) -> None:
    length = 513
    batch = (1 << 31) // (length * 3 * 128) + 2
    need = batch * length * 3 * 128 * 2 * 3
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need >> 30} GiB of free GPU memory")
    qkv = torch.randn((batch * length, 3, 8, 16), device=cuda, dtype=torch.bfloat16)
    cu = (torch.arange(batch + 1, device=cuda) * length).int()
    out, _ = ops.attention(qkv, cu, length)
    alone, _ = ops.attention(qkv[-length:].clone(), cu[:2], length)
    assert torch.equal(out[-length:], alone)


def test_a_recorded_graph_takes_other_lengths(cuda: torch.device) -> None:
    total, longest = 300, 200
    qkv = torch.randn((total, 3, 8, 16), device=cuda)
    cu = torch.tensor([0, 100, total], dtype=torch.int32, device=cuda)
    ops.attention(qkv, cu, longest)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = ops.attention(qkv, cu, longest)
    for edge in (100, 101, 163, 200):
        cu.copy_(torch.tensor([0, edge, total], dtype=torch.int32))
        graph.replay()
        assert torch.equal(out, ops.attention(qkv, cu, longest)[0]), edge
