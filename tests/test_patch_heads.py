"""Heads back to csi: exact inverses of the tokeniser, shapes, sizes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.path_channels import path_channels
from torch import nn

from lwm_fast.errors import InputError
from lwm_fast.tasks.codec import LatentCodec
from lwm_fast.tasks.compression import CompressionTask
from lwm_fast.tasks.csi_heads import CsiCNN, RowMLP, VectorHead
from lwm_fast.tasks.interpolation import InterpolationTask
from lwm_fast.tasks.patch_heads import PatchHead, patches_to_csi, reconstruction_head
from lwm_fast.tasks.reconstruction import to_csi
from lwm_fast.tokens import PATCH_LEN, num_tokens, tokenize

SIZES = [
    ("1.0", 32, 32), ("1.0", 1, 16), ("1.0", 16, 1), ("1.0", 3, 16),
    ("1.1", 32, 32), ("1.1", 1, 1), ("1.1", 30, 50), ("1.1", 5, 4), ("1.1", 8, 32),
]  # fmt: skip


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("version", "num_antennas", "num_subcarriers"), SIZES)
@pytest.mark.parametrize("users", [0, 1, 3])
def test_identity_head_undoes_the_tokeniser(
    version: str, num_antennas: int, num_subcarriers: int, users: int
) -> None:
    channels = path_channels(3, num_antennas, num_subcarriers)[:users]
    patches = torch.from_numpy(tokenize(channels.csi, version)[:, 1:])
    head = PatchHead(version, num_antennas, num_subcarriers, PATCH_LEN[version])
    head.to_patch = nn.Identity()
    parts = head(patches)
    assert parts.shape == (users, num_antennas, num_subcarriers, 2)
    assert isinstance(parts, torch.Tensor)
    np.testing.assert_allclose(to_csi(parts.numpy(), 1e6), channels.csi, rtol=3e-7)


def test_sizes_of_the_release_and_gradients_to_every_patch() -> None:
    head = PatchHead("1.0", 32, 32, 64)
    assert parameters(head) == 1040
    assert parameters(PatchHead("1.1", 32, 32, 128)) == 4128
    assert parameters(PatchHead("1.0", 32, 32, 64, hidden=8)) == 64 * 8 + 8 + 8 * 16 + 16
    embeddings = torch.randn(2, 128, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head(embeddings).square().sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum(2).min() > 0


def test_padding_gets_no_gradient() -> None:
    patches = torch.randn(1, num_tokens(3, 5, "1.1") - 1, 32).requires_grad_()
    patches_to_csi(patches, "1.1", 3, 5).sum().backward()
    assert patches.grad is not None
    assert int(patches.grad.sum()) == 3 * 5 * 2


def test_wrong_embeddings_are_named() -> None:
    head = PatchHead("1.0", 32, 32, 64)
    with pytest.raises(InputError, match=r"\(2, 129, 64\); \[n, 128, 64\] was expected"):
        head(torch.zeros(2, 129, 64))
    with pytest.raises(InputError, match="embed_dim=0"):
        PatchHead("1.0", 32, 32, 0)
    with pytest.raises(InputError, match="multiple of 16"):
        PatchHead("1.0", 3, 5, 64)
    with pytest.raises(InputError, match=r'expected "1.0" or "1.1"'):
        PatchHead("2.0", 32, 32, 64)


@pytest.mark.parametrize("size", [(8, 16), (1, 1), (3, 5)])
@pytest.mark.parametrize("make", [CsiCNN, RowMLP])
def test_heads_on_raw_csi_start_at_their_input(size: tuple[int, int], make: type[nn.Module]) -> None:
    head = make(*size)
    parts = torch.randn(2, *size, 2, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(head(parts).detach().numpy(), parts.numpy(), rtol=1e-6)


def test_stated_sizes() -> None:
    assert parameters(CsiCNN(32, 32)) == 10_018
    assert parameters(RowMLP(32, 32)) == 16_640
    assert parameters(VectorHead((64,), 32, 32)) == 272_512


def test_cnn_sees_the_comb() -> None:
    mask = np.zeros((4, 4), bool)
    mask[::2] = True
    head, blind = CsiCNN(4, 4, observed=mask), CsiCNN(4, 4)
    nn.init.ones_(head.last.weight)
    blind.load_state_dict({**head.state_dict(), "observed": blind.observed})
    zeros = torch.zeros(1, 4, 4, 2)
    assert not torch.equal(head(zeros), blind(zeros))


def test_the_head_that_fits() -> None:
    channels = path_channels(4, 8, 16)
    interpolation = InterpolationTask().examples(channels)
    compression = CompressionTask(bits=64).examples(channels)
    assert isinstance(reconstruction_head(interpolation, (16, 64)), PatchHead)
    assert isinstance(reconstruction_head(interpolation, (8, 16, 2)), CsiCNN)
    assert isinstance(reconstruction_head(interpolation, (8, 16, 2), name="row-mlp"), RowMLP)
    assert isinstance(reconstruction_head(interpolation, (64,)), VectorHead)
    codec = reconstruction_head(compression, (16, 64))
    assert isinstance(codec, LatentCodec)
    assert codec.spent_bits == 64
    for examples, shape in ((interpolation, (16, 64)), (interpolation, (64,)), (compression, (8, 16, 2))):
        head = reconstruction_head(examples, shape)
        assert head(torch.zeros(3, *shape)).shape == (3, 8, 16, 2)


def test_seed_fixes_the_weights_and_nothing_else() -> None:
    examples = InterpolationTask().examples(path_channels(4, 8, 16))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = (reconstruction_head(examples, (16, 64), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [next(head.parameters()) for head in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_refused_heads() -> None:
    examples = InterpolationTask().examples(path_channels(4, 8, 16))
    with pytest.raises(InputError, match="head='linear' is unknown for interpolation"):
        reconstruction_head(examples, (64,), name="linear")
    with pytest.raises(InputError, match=r"head='cnn' does not take inputs of shape \(64,\)"):
        reconstruction_head(examples, (64,), name="cnn")
    with pytest.raises(InputError, match="no bit budget"):
        reconstruction_head(examples, (64,), name="codec")
