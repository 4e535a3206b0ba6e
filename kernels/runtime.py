"""Triton where it is installed, stand-ins where it is not, and how a tensor finds its kernel.

Kernel modules import `jit`, `tl` and `triton` from here, so they import without Triton; the plain torch twin
in each module then does the work. They write `from .runtime import ...  # noqa: TID251`, since checkers see
this folder as `kernels` and Python as `lwm_fast.kernels`. Arguments of kernels are annotated `tl.tensor` or
`tl.constexpr`: Triton's compiler looks annotations up and refuses names that are not its own. With
TRITON_INTERPRET=1 the Triton code itself runs on CPU tensors.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

if TYPE_CHECKING:
    import triton
    import triton.language as tl

    HAVE_TRITON = True
else:
    try:
        import triton
        import triton.language as tl

        HAVE_TRITON = True
    except ImportError:

        class triton:  # noqa: N801
            """What a kernel module touches while it is imported without Triton."""

            @staticmethod
            def jit(fn):
                return fn

        class tl:  # noqa: N801
            """Module-level constants of kernels keep their plain value without Triton."""

            @staticmethod
            def constexpr(value):
                return value

        HAVE_TRITON = False

__all__ = [
    "HAVE_TRITON",
    "INTERPRET",
    "Variant",
    "autocast",
    "compute_dtype",
    "dot_dtype",
    "jit",
    "operator",
    "pointer_type",
    "short_name",
    "tl",
    "triton",
    "uses_triton",
    "why_unavailable",
]

INTERPRET = HAVE_TRITON and os.environ.get("TRITON_INTERPRET", "0") == "1"
"""True where Triton kernels run in Triton's interpreter, on CPU tensors."""

_TYPE_NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}


@dataclass(frozen=True)
class Variant:
    """One shipped compilation of a kernel, for the test that compiles all of them without a GPU.

    types: Triton type of each run-time argument ("*bf16", "*fp32", "*i64", "i32", "fp32"); constexprs: the
    values compiled in. An argument that is in neither is an error.
    """

    name: str
    fn: Any
    types: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int


def jit(fn: Callable[..., Any]) -> Any:
    """`triton.jit`, typed; without Triton the plain function, never called."""
    return triton.jit(fn)


def autocast(x: Tensor) -> Tensor:
    """x as autocast would hand it to a lower-precision op; float64 is left alone, as in torch."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Registers a function as the custom op `lwm_fast::name`, run on its tensors' device, autocast off inside.

    An op's own arithmetic is part of what it is: autocast may change what it is given, not how it computes. And
    Triton launches on the current device, which need not be where the tensors are.
    """

    def register(fn: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(fn)
        def exact(*args: Any) -> Any:
            device = next(a for a in args if isinstance(a, Tensor)).device
            with contextlib.ExitStack() as settings:
                if device.type == "cuda" and device.index != torch.cuda.current_device():
                    settings.enter_context(torch.cuda.device(device))
                if torch.is_autocast_enabled(device.type):
                    settings.enter_context(torch.autocast(device.type, enabled=False))
                return fn(*args)

        return torch.library.custom_op(f"lwm_fast::{name}", exact, mutates_args=(), schema=schema)

    return register


def dot_dtype(dtype: torch.dtype) -> Any:
    """The `tl` dtype of `tl.dot` operands for activations of `dtype` (float32 needs input_precision="ieee").

    The interpreter computes bfloat16 products wrongly without a word, so there it is float32 for everything.
    """
    if INTERPRET or dtype not in (torch.bfloat16, torch.float16):
        return tl.float32
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """What the plain twins compute in: float64 where an operand is, else float32 as the kernels do."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def pointer_type(dtype: torch.dtype) -> str:
    """The Triton type of a pointer to `dtype`, as `Variant.types` holds it."""
    return "*" + _TYPE_NAMES[dtype]


def short_name(dtype: torch.dtype) -> str:
    """The dtype as the names of variants write it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def why_unavailable() -> str | None:
    """Why the Triton kernels cannot run here, or None where they can."""
    if not HAVE_TRITON:
        return "triton is not installed: pip install 'lwm_fast[gpu]' (Linux)"
    if not INTERPRET and not torch.cuda.is_available():
        return "torch sees no CUDA device (TRITON_INTERPRET=1 runs the kernels slowly on the CPU)"
    return None


def uses_triton(tensor: Tensor) -> bool:
    """True where an op on `tensor` launches its Triton kernel, False where its plain twin runs."""
    if not HAVE_TRITON or tensor.dtype == torch.float64:
        return False
    return tensor.is_cuda or INTERPRET
