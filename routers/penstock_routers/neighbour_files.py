"""The files that hold neighbours beside a router's graph: names, bounds, and what the manifest says of them.

Owns the schema of the manifest's ``neighbours`` section, and reading the two files with their hashes checked. It knows
no faiss (`penstock_routers.neighbour_index` does). Read `NeighbourFiles`, then `read_verified`.

::

    neighbours.faiss    the index over prompt vectors, as faiss writes it
    neighbours.scores   one row of uint8 per prompt, one column per arm, in steps of 1/255
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_routers.errors import ArtifactError

INDEX_FILE: Final = "neighbours.faiss"
SCORES_FILE: Final = "neighbours.scores"
NEIGHBOUR_FILES: Final = (INDEX_FILE, SCORES_FILE)
MAX_INDEX_BYTES: Final = 4 << 30  # four million prompts of 256 numbers as float32; a larger one is a mistake
MAX_SCORES_BYTES: Final = 1 << 30
MAX_NEIGHBOURS: Final = 1000
MAX_EFFORT: Final = 4096  # bounds the time of a search, whatever a manifest asks for
_READ_BYTES: Final = 16 << 20

IndexKind = Literal["flat", "ivf", "ivf_sq8", "hnsw"]


class NeighbourFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The index beside a graph.

    Attributes
    ----------
    kind : str
        ``flat`` (exact), ``ivf`` (inverted lists of float32), ``ivf_sq8`` (of one byte per number), ``hnsw`` (a graph).
    metric : str
        ``inner_product``: the cosine, since prompt vectors have unit length.
    dimension : int
        Length d of a vector.
    points : int
        Prompts N in the index, and rows of the score table.
    arms : int
        Columns m of the score table.
    neighbours : int
        k: how many are searched for.
    effort : int
        Lists visited per search (``ivf``, ``ivf_sq8``) or candidates kept (``hnsw``); 0 for ``flat``.
    index_sha256, scores_sha256 : str
    index_bytes, scores_bytes : int
        Exact sizes; a download stops there.
    recall : float
        Share of the k exact neighbours that the search finds, measured on prompts taken out of the index.
    recall_queries : int
        How many of those.
    quality_difference : float
        Mean absolute difference of raw quality from that of exact neighbours, over these prompts and all arms.
    squared_error_rise : float
        Mean squared error of raw quality against the observed scores, minus that of exact neighbours; may be negative.
    """

    kind: IndexKind
    metric: Literal["inner_product"]
    dimension: int
    points: int
    arms: int
    neighbours: int
    effort: int
    index_sha256: str
    index_bytes: int
    scores_sha256: str
    scores_bytes: int
    recall: float
    recall_queries: int
    quality_difference: float
    squared_error_rise: float

    @property
    def total_bytes(self) -> int:
        """Size of both files."""
        return self.index_bytes + self.scores_bytes

    @property
    def sizes(self) -> dict[str, int]:
        """Exact size of each file, bytes."""
        return {INDEX_FILE: self.index_bytes, SCORES_FILE: self.scores_bytes}


def neighbour_problems(files: NeighbourFiles, dimension: int, arms: int) -> list[str]:
    """Find what contradicts the rest of a manifest, or is out of bounds.

    Parameters
    ----------
    files : NeighbourFiles
    dimension : int
        Of the encoder.
    arms : int

    Returns
    -------
    list of str
        One clause each; empty when all is well.
    """
    checks = {
        "neighbours have another dimension than the encoder": files.dimension == dimension,
        "neighbours have scores of other arms": files.arms == arms,
        "there are fewer points than neighbours, or none": 0 < files.neighbours <= min(files.points, MAX_NEIGHBOURS),
        "the effort of a search is out of bounds": 0 <= files.effort <= MAX_EFFORT
        and (files.effort == 0) == (files.kind == "flat"),
        "the score table's size is not points times arms": files.scores_bytes == files.points * files.arms
        and files.scores_bytes <= MAX_SCORES_BYTES,
        "the index is too large": 0 < files.index_bytes <= MAX_INDEX_BYTES,
    }
    return [sentence for sentence, is_good in checks.items() if not is_good]


def read_verified(path: Path, size: int, sha256: str) -> NDArray[np.uint8]:
    """Read one of the files into memory of this process and check its hash.

    Parameters
    ----------
    path : Path
    size : int
        Exact size in bytes, from the manifest.
    sha256 : str
        Hexadecimal.

    Returns
    -------
    ndarray of uint8, shape (size,)
        Not writable.

    Raises
    ------
    ArtifactError
        ``artifact_missing``, ``artifact_oversize``, ``artifact_corrupt``.

    Notes
    -----
    The file is read, not mapped: what was verified is then what serves, and a file that is cut short later cannot end
    the process.
    """
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise ArtifactError(f"{name} is missing or no regular file", code="artifact_missing")
    try:
        with path.open("rb") as file:
            found = path.stat().st_size
            if found > size:
                raise ArtifactError(f"{name} is larger than the manifest says", code="artifact_oversize")
            if found < size:
                raise ArtifactError(f"{name} is shorter than the manifest says", code="artifact_corrupt")
            content = np.empty(size, dtype=np.uint8)
            view, filled, digest = content.data, 0, hashlib.sha256()
            while filled < size and (got := file.readinto(view[filled : filled + _READ_BYTES])):
                digest.update(view[filled : filled + got])
                filled += got
    except OSError as failure:
        message = f"{name} cannot be read: {failure.strerror or 'unreadable'}"
        raise ArtifactError(message, code="artifact_missing") from failure
    if filled != size or digest.hexdigest() != sha256:
        raise ArtifactError(f"{path.name} is not the file that the manifest names", code="artifact_corrupt")
    content.flags.writeable = False
    return content
