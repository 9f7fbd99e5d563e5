"""Where the encoders and the default artifact that come with the package lie.

A source checkout keeps them in ``onnx_models/`` at its root, the wheel in ``penstock_routers/onnx_models/``. Nothing is
fetched. Read `bundled_folder`.
"""

from __future__ import annotations

from pathlib import Path

from penstock_routers.errors import RouterError

DEFAULT_ENCODER = "static-minilm-256"
PARAPHRASE_ENCODER = "minilm-l6-v2"


def bundled_folder(name: str) -> Path:
    """Find one of the bundled model folders.

    Parameters
    ----------
    name : str
        Folder name, such as ``"static-minilm-256"``; no path separators.

    Returns
    -------
    Path
        An existing folder. Its content is not checked here.

    Raises
    ------
    RouterError
        Code ``bundled_model_missing``: this installation has no such folder.
    """
    package = Path(__file__).resolve().parent
    if name not in ("", ".", "..") and Path(name).name == name:
        for root in (package / "onnx_models", package.parent.parent / "onnx_models"):
            if (root / name).is_dir():
                return root / name
    raise RouterError(f"no bundled model folder is named {name[:80]!r}", code="bundled_model_missing")
