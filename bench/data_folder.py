"""Where the outcome sets lie: one answer for every bench that reads them."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of the outcome sets: ``PENSTOCK_DATA``, else ``../shared/data`` beside the project."""
    return Path(os.environ.get("PENSTOCK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
