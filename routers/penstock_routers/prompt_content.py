"""Whether an artifact carries what somebody wrote: vectors of single prompts, made from captured traffic.

A vector of one prompt is content: it tells what was asked to whoever can guess at it. Owns the two questions that
publishing asks. Read `holds_prompt_vectors`.
"""

from __future__ import annotations

from typing import Final

from penstock_routers.manifest import Manifest

# What a fit from a gateway's own captured prompts writes where public sets have their licence.
CAPTURED_LICENCE: Final = "captured"
SUPPORT_POINTS: Final = "support_points"


def holds_prompt_vectors(manifest: Manifest) -> bool:
    """Tell whether an artifact holds vectors of single prompts.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    bool
        True when an index of them lies beside the graph, or when the family, or a member of an ensemble
        (``knn.support_points``), keeps support points, as exact nearest neighbours do. Prototypes that are means of at
        least five prompts, linear heads and cluster tables keep none.
    """
    return manifest.neighbours is not None or any(
        value > 0.0 for name, value in manifest.hyperparameters.items() if name.rpartition(".")[2] == SUPPORT_POINTS
    )


def is_from_captured_prompts(manifest: Manifest) -> bool:
    """Tell whether a training source is traffic captured by a gateway, as its manifest's licence field says."""
    return any(source.licence.strip().casefold() == CAPTURED_LICENCE for source in manifest.training.sources)
