"""Every operation forward and backward on small shapes, once: what a memory checker watches."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from support import gpu_cases  # type: ignore[import-not-found]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for version in ("1.0", "1.1"):
        cases = {
            "attention": gpu_cases.attention(version, device, (17, 1, 33, 2, 65, 129)),
            "encoder_tail": gpu_cases.encoder_tail(version, device, 77),
            "norm": gpu_cases.norm(version, device, 77),
            "patch_embed": gpu_cases.patch_embed(version, device),
            "patch_embed grids": gpu_cases.patch_embed(version, device, grids=True),
            "mcm_loss": gpu_cases.mcm_loss(version, device),
        }
        for name, case in cases.items():
            for dtype in gpu_cases.DTYPES:
                for what, value in gpu_cases.results(case.ours, case.at(dtype)).items():
                    if not torch.isfinite(value).all():
                        raise SystemExit(f"{name} v{version} {dtype}: {what} is not finite")
    print(f"small shapes on {device}: done")


if __name__ == "__main__":
    main()
