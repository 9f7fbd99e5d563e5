"""Whether an artifact may be written or published, given what it holds of captured prompts.

Owns one rule, which fitting and publishing share. What an artifact holds is told by `penstock_routers.prompt_content`.
"""

from __future__ import annotations

from penstock_routers.manifest import Manifest
from penstock_routers.prompt_content import holds_prompt_vectors, is_from_captured_prompts
from penstock_training.errors import TrainingError


def check_prompt_content(manifest: Manifest, *, is_allowed: bool) -> None:
    """Refuse vectors of single captured prompts unless they were allowed.

    Raises
    ------
    TrainingError
        ``prompt_vectors_refused``.
    """
    if is_allowed or not holds_prompt_vectors(manifest) or not is_from_captured_prompts(manifest):
        return
    raise TrainingError(
        f"the {manifest.family!r} artifact holds vectors of single captured prompts, which tell what was asked; fit a "
        "family without support points, or allow it with --allow-prompt-vectors",
        code="prompt_vectors_refused",
    )
