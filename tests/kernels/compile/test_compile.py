"""Every shipped kernel variant, compiled for the GPUs it is meant for, without a GPU or a driver.

A variant must compile, fit the shared memory of one block and spill no registers (or have its reason below).
`python tests/kernels/compile/test_compile.py` writes the table of registers, shared memory and spills.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import lwm_fast.kernels
import pytest
from lwm_fast.kernels.runtime import HAVE_TRITON, INTERPRET, Variant

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may use on that architecture
_FMA = (
    "float32 products run on FMA units with whole rows of operands in registers; smaller tiles spill as well"
)
SPILLS: dict[str, str] = {
    f"encoder_tail {way} v1.1 float32{dropout}": _FMA
    for way in ("fwd", "bwd")
    for dropout in ("", " dropout")
} | {"encoder_tail cls v1.1 float32": _FMA}
SPILLS |= {
    f"encoder_tail bwd v1.1 {dtype} dropout": "24 bytes, and more with smaller blocks"
    for dtype in ("bfloat16", "float16")
}
SPILLS |= {
    f"patch_embed bwd v1.1 {source}{grids} float32": "the same; 48 bytes, 208 with triton 3.6.0"
    for source in ("csi masked", "tokens")
    for grids in ("", " grids")
}
SPILLS |= {"patch_embed bwd v1.0 tokens float32": "8 bytes with triton 3.6.0 alone"}
SPILLS |= {
    f"patch_embed bwd v1.0 tokens {dtype}": "112 bytes: three tf32 products a step; the models ask for float32 here"
    for dtype in ("bfloat16", "float16")
}
SPILLS |= {
    f"patch_embed bwd v1.1 tokens {dtype}": "8 bytes with triton 3.6.0 alone; likewise"
    for dtype in ("bfloat16", "float16")
}
"""Variant name -> why its spill is accepted."""
_AMPERE = "three tf32 products a step: up to 5,944 bytes with masks, 72 from tokens, none on sm_90"
SPILLS_ON_SM80: dict[str, str] = {
    f"patch_embed bwd v1.1 {source} {dtype}": _AMPERE
    for source in ("csi masked", "tokens")
    for dtype in ("bfloat16", "float16")
}
SPILLS_ON_SM80 |= {
    f"patch_embed bwd v1.0 csi masked {dtype}": "8 bytes with triton 3.6.0 alone; likewise"
    for dtype in ("bfloat16", "float16")
}
"""The same for sm_80 alone."""


def all_variants(arch: int | None = None) -> list[Variant]:
    """What each kernel module lists for an architecture; none where nothing can be compiled here."""
    if not HAVE_TRITON or INTERPRET:
        return []
    found: list[Variant] = []
    for info in pkgutil.iter_modules(lwm_fast.kernels.__path__):
        module = importlib.import_module(f"lwm_fast.kernels.{info.name}")
        if hasattr(module, "variants"):
            found += module.variants(arch)
    return found


class Resources(NamedTuple):
    registers: int  # of one thread
    shared: int  # bytes of one block
    stack: int  # bytes of one thread: spilled registers


def _compiled(variant: Variant, arch: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.fn.arg_names
    signature = {n: "constexpr" if n in variant.constexprs else variant.types[n] for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    constants = {n: variant.constexprs[n] for n in names if n in variant.constexprs}
    source = ASTSource(fn=variant.fn, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def compile_offline(variant: Variant, arch: int) -> Resources:
    import triton

    compiled = _compiled(variant, arch)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        listing = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", listing)}
    return Resources(used["REG"], compiled.metadata.shared, used["STACK"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "arch"),
    [
        pytest.param(variant, arch, id=f"{variant.name.replace(' ', '-')}-sm{arch}")
        for arch in (90, 80)
        for variant in all_variants(arch)
    ],
)
def test_compiles_within_the_limits(variant: Variant, arch: int) -> None:
    resources = compile_offline(variant, arch)
    assert resources.shared <= SHARED_LIMIT[arch]
    accepted = {**SPILLS, **SPILLS_ON_SM80} if arch == 80 else SPILLS
    assert resources.stack == 0 or variant.name in accepted, f"spills {resources.stack} bytes a thread"


def test_names_are_distinct_and_no_reason_is_left_over() -> None:
    names = [variant.name for variant in all_variants()]
    if not names:
        pytest.skip("needs triton, and a process without TRITON_INTERPRET=1")
    assert len(set(names)) == len(names)
    assert {*SPILLS, *SPILLS_ON_SM80} <= set(names)


def _layout_of_rows(ttgir: str) -> set[str]:
    """How scores, weights and their reductions lie: each layout that a product or a reduction uses, by its text.

    The size of a tile is no part of it, so two tiles with one set do the same operations in the same lanes.
    """
    named = dict(re.findall(r"^(#\w+) = (#ttg\..*)$", ttgir, re.MULTILINE))
    used = re.findall(r"(?:tt\.dot|tt\.reduce\b|warp_group_dot).*", ttgir)
    used += re.findall(r"^\s*}\) : \(tensor<.*$", ttgir, re.MULTILINE)  # the types of a reduction
    return {named[name] for line in used for name in re.findall(r"#\w+", line) if name in named}


@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize("kernel", ["fwd", "dq", "dkv"])
@pytest.mark.parametrize("heads", ["d=5 float16", "d=16 bfloat16"])
def test_both_query_tiles_of_attention_lie_alike(heads: str, kernel: str, arch: int) -> None:
    """The longest sequence of a batch picks the tile, so no bit of a sequence may depend on which it is."""
    by_name = {variant.name: variant for variant in all_variants(arch)}
    if not by_name:
        pytest.skip("needs triton, and a process without TRITON_INTERPRET=1")
    layouts = []
    for suffix in ("", " short"):
        text = str(_compiled(by_name[f"attention {kernel} {heads}{suffix}"], arch).asm["ttgir"])
        assert "warp_group_dot" not in text
        layouts.append(_layout_of_rows(text))
        assert any("nvidia_mma" in layout and "versionMajor = 2" in layout for layout in layouts[-1])
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize(
    "source", ["fwd v1.1 csi", "fwd v1.1 csi masked", "bwd v1.1 csi masked", "bwd v1.1 tokens"]
)
def test_both_forms_of_positions_lie_alike(source: str, arch: int) -> None:
    """A batch of one grid takes the released form, one of several the other: a sequence's bits are the same."""
    by_name = {variant.name: variant for variant in all_variants(arch)}
    if not by_name:
        pytest.skip("needs triton, and a process without TRITON_INTERPRET=1")
    plain, grids = (
        _layout_of_rows(str(_compiled(by_name[f"patch_embed {source}{form} float32"], arch).asm["ttgir"]))
        for form in ("", " grids")
    )
    assert plain
    assert plain == grids


def main() -> None:
    """Write the table for docs/kernels.md, one row per variant and architecture."""
    sys.stdout.write(
        "| kernel | sm | warps | registers | shared (B) | spilled (B) |\n|---|---|---|---|---|---|\n"
    )
    for arch in sorted(SHARED_LIMIT, reverse=True):
        for variant in all_variants(arch):
            registers, shared, stack = compile_offline(variant, arch)
            numbers = f"{arch} | {variant.num_warps} | {registers} | {shared} | {stack}"
            sys.stdout.write(f"| {variant.name} | {numbers} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
