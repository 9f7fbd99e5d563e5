"""A small router with a faiss index beside its graph, fitted on made-up outcomes in about a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder_manifest import read_encoder_folder
from penstock_routers.manifest import EncoderReference, Manifest, SourceEntry
from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, FittedRouter, fit_router
from penstock_training.own_router import evaluate_on
from penstock_training.pack import Provenance, make_manifest, write_artifact
from support.small_router import ENCODER, OPTIONS, made_up_corpus

KINDS = {"ivf_sq8": 1.0, "ivf": 2.0, "hnsw": 3.0, "flat": 4.0}
NEIGHBOURS = 40
SERVED_DIMENSION = 256
SERVED_ARMS = ("small", "medium", "frontier")


@dataclass(frozen=True)
class BesideRouter:
    """A fitted router with everything that its artifact is written from."""

    corpus: Corpus
    fitted: FittedRouter
    manifest: Manifest

    def write(self, folder: Path) -> RouterArtifact:
        """Write the artifact and open it."""
        return write_artifact(folder, self.manifest, self.fitted.graph, estimator=self.fitted.estimator)


def beside_options(kind: str, **more: float) -> FitOptions:
    """Options of a fit whose neighbours lie beside the graph, however few they are."""
    settings = {"support_points": 1.0, "index_from": 50.0, "index_kind": KINDS[kind], "neighbours": float(NEIGHBOURS)}
    return replace(OPTIONS, router=router_spec("knn", settings | more))


@lru_cache(maxsize=8)
def beside_router(kind: str) -> BesideRouter:
    """Return the router over the made-up encoder; the same object for every caller."""
    return _fitted(made_up_corpus(), "dear", kind, ENCODER)


@lru_cache(maxsize=1)
def served_beside_router() -> BesideRouter:
    """Return a router for the bundled encoder, with arms that a gateway's deployments can have."""
    corpus = made_up_corpus()
    padding = ((0, 0), (0, SERVED_DIMENSION - corpus.vectors.shape[1]))
    prices = dict(zip(SERVED_ARMS, corpus.prices.values(), strict=True))
    corpus = replace(
        corpus,
        matrix=replace(corpus.matrix, arms=SERVED_ARMS),
        vectors=np.pad(corpus.vectors, padding),
        prices=prices,
    )
    found, *_ = read_encoder_folder(bundled_folder(DEFAULT_ENCODER))
    encoder = EncoderReference(found.encoder_id, found.name, SERVED_DIMENSION, {})
    return _fitted(corpus, "frontier", "ivf_sq8", encoder)


def _fitted(corpus: Corpus, reference_arm: str, kind: str, encoder: EncoderReference) -> BesideRouter:
    options = beside_options(kind)
    fitted = fit_router(corpus, reference_arm=reference_arm, options=options, progress=lambda *_: None)
    sources = (SourceEntry("made-up", "none", len(corpus.matrix.prompts), 1),)
    provenance = Provenance(encoder, corpus.matrix.digest, sources, (), {}, {}, 0)
    held_out = evaluate_on(fitted, corpus.rows(fitted.split["test"]), "made-up prompts", options)
    return BesideRouter(corpus, fitted, make_manifest(fitted, corpus, provenance, held_out=held_out, left_out={}))
