"""Outputs and gradients of every operation against float64, by the twice-plain-torch rule, in each precision."""

from __future__ import annotations

import pytest
import torch
from support import gpu_cases, gpu_ceilings
from support.embed_cases import relative_error


@pytest.mark.parametrize("dtype", gpu_cases.DTYPES, ids=str)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("name", gpu_cases.OPERATIONS)
def test_errors_are_at_most_twice_plain_torchs(
    device: torch.device, name: str, version: str, dtype: torch.dtype
) -> None:
    case = gpu_cases.OPERATIONS[name](version, device)
    leaves = case.at(dtype)
    found = gpu_cases.results(case.ours, leaves)
    plain = gpu_cases.results(case.plain, leaves)
    exact = gpu_cases.results(case.plain, {n: x.double() for n, x in leaves.items()})
    for what, value in exact.items():
        error, other = relative_error(found[what], value), relative_error(plain[what], value)
        assert error <= max(2 * other, gpu_ceilings.ROUNDING[dtype]), (
            f"{what}: {error:.2e}, plain {other:.2e}"
        )
        assert error <= gpu_ceilings.OPERATION[dtype], f"{what}: {error:.2e}"


@pytest.mark.parametrize("dtype", gpu_cases.DTYPES, ids=str)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("name", gpu_cases.OPERATIONS)
def test_the_same_inputs_give_the_same_bits(
    device: torch.device, name: str, version: str, dtype: torch.dtype
) -> None:
    case = gpu_cases.OPERATIONS[name](version, device)
    first, second = (gpu_cases.results(case.ours, case.at(dtype)) for _ in range(2))
    for what, value in first.items():
        assert torch.equal(value, second[what]), what
