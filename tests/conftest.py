"""Shared fixtures. Real data is optional: tests that need it skip with the reason when it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real v1.0 weights, city scenarios and golden vectors.

    `LWM_FAST_TEST_DATA` names it; the default lies beside the checkout (../shared/data).
    """
    folder = Path(os.environ.get("LWM_FAST_TEST_DATA", _DEFAULT_SHARED))
    if not (folder / "golden").is_dir():
        pytest.skip(f"real test data not found in {folder}: set LWM_FAST_TEST_DATA to its folder")
    return folder
