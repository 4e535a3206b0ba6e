"""The one table of ceilings for errors against float64, with the worst case measured beside each.

A fast path passes when its error is at most twice that of plain torch in the same dtype and under the
ceiling. Errors are relative in the Frobenius norm over the whole tensor. docs/numerics.md prints the same
measurements, made by `python -m bench numerics`.
"""

from __future__ import annotations

# (version, precision) -> ceiling
ENCODER = {
    (
        "1.0",
        "float32",
    ): 2.9e-6,  # 9.2e-7 on tokens, 1.7e-6 on CLS (portable 2.3e-6), plain torch 1.45e-6; 64 of Denver
    ("1.1", "float32"): 2e-6,  # 4.0e-7
    ("1.0", "bf16x3"): 1e-5,
    ("1.1", "bf16x3"): 1e-5,
    ("1.0", "bfloat16"): 8e-3,  # 2.3e-3 on tokens, 2.8e-3 on CLS
    ("1.1", "bfloat16"): 3e-3,  # 2.3e-3
    ("1.0", "float16"): 8e-3,  # 2.8e-4 on tokens, 3.4e-4 on CLS
    ("1.1", "float16"): 3e-3,  # 3.1e-4
}
GRADIENT = 5e-6  # worst parameter, float32 training path against float64
NORM = 3e-7  # 7e-8
