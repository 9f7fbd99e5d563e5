"""Prompt vectors for training: the serving encoder over many prompts, with progress.

Owns nothing but the loop, so that training sees exactly the vectors that serving makes. Read `encode_prompts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_routers.encoder import PromptEncoder
from penstock_routers.manifest import EncoderReference

BLOCK: Final = 1024  # part of the result: a vector depends on what it is encoded beside, in its last bits


def encode_prompts(
    encoder: PromptEncoder, prompts: Sequence[str], progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    """Encode n prompts.

    Parameters
    ----------
    encoder : PromptEncoder
    prompts : sequence of str, length n
    progress : callable
        Called with prompts done and n.

    Returns
    -------
    ndarray of float32, shape (n, d)
    """
    vectors = np.zeros((len(prompts), encoder.dimension), dtype=np.float32)
    for start in range(0, len(prompts), BLOCK):
        vectors[start : start + BLOCK] = encoder.encode(prompts[start : start + BLOCK])
        progress(min(start + BLOCK, len(prompts)), len(prompts))
    return vectors


def encoder_reference(encoder: PromptEncoder) -> EncoderReference:
    """Describe an encoder for an artifact's manifest."""
    manifest = encoder.manifest
    return EncoderReference(
        id=encoder.encoder_id,
        name=manifest.name,
        dimension=encoder.dimension,
        window=msgspec.to_builtins(manifest.window),
    )
