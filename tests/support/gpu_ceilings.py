"""The one table of ceilings for errors on a GPU. Worst cases on a GPU: not yet measured.

An operation passes when each error against float64 is at most twice that of plain torch in the same dtype, and
under the ceiling here. Where plain torch is nearly exact, one rounding of the dtype (`ROUNDING`) is allowed.
Relative errors in the Frobenius norm, of outputs and of every gradient.
"""

from __future__ import annotations

import torch

OPERATION = {
    torch.float32: 3e-6,  # worst on a GPU: not yet measured
    # Worst of the plain twins, which round where the kernels do: 3.5e-2 and 1.3e-2 (plain torch 5.0e-2 and
    # 2.2e-2), both the gradient of w1, where rounded sums fall on the other side of the ReLU. On a GPU: not yet.
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
}
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
GRADIENT = {
    "float32": 1e-4,
    "bfloat16": 1e-1,
    "float16": 2e-2,
}  # of all parameters together; not yet measured
