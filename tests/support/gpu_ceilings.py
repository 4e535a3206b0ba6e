"""The one table of ceilings for errors on a GPU. Worst cases on a GPU: not yet measured.

An operation passes when each error against float64 is at most twice that of plain torch in the same dtype, and
under the ceiling here. Where plain torch is nearly exact, one rounding of the dtype (`ROUNDING`) is allowed.
Relative errors in the Frobenius norm, of outputs and of every gradient.
"""

from __future__ import annotations

import torch

OPERATION = {
    torch.float32: 3e-6,  # worst on a GPU: not yet measured
    torch.bfloat16: 3e-2,  # worst on a GPU: not yet measured
    torch.float16: 4e-3,  # worst on a GPU: not yet measured
}
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
GRADIENT = {
    "float32": 1e-4,
    "bfloat16": 1e-1,
    "float16": 2e-2,
}  # of all parameters together; not yet measured
