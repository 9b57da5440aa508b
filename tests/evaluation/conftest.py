from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the repository, or where TRIMTAB_SHARED says; the test is skipped without it."""
    folder = Path(os.environ.get("TRIMTAB_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("no shared data: set TRIMTAB_SHARED")
    return folder
