"""Where bundled model folders are found."""

from __future__ import annotations

import pytest

from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.errors import RouterError


@pytest.mark.parametrize("name", [DEFAULT_ENCODER, PARAPHRASE_ENCODER])
def test_bundled_folder_of_each_encoder_holds_a_manifest(name: str) -> None:
    """Both encoders come with the package."""
    assert (bundled_folder(name) / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "../onnx_models", "static-minilm-256/..", "/etc", "no-such-model"])
def test_bundled_folder_with_a_path_or_unknown_name_is_refused(name: str) -> None:
    """A name is a folder name, never a path that leads elsewhere."""
    with pytest.raises(RouterError) as caught:
        bundled_folder(name)
    assert caught.value.code == "bundled_model_missing"
