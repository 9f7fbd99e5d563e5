"""How importers count tokens where the source holds texts but no counts.

Owns the choice of the counter. Read `token_counter`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from penstock_routers.token_counts import estimate_tokens
from penstock_training.errors import TrainingError

CounterName = Literal["estimate", "cl100k"]
COUNTERS: Final[tuple[CounterName, ...]] = ("estimate", "cl100k")
_KEPT_COUNTS: Final = 65_536  # each prompt is counted once per arm otherwise


def token_counter(name: CounterName) -> Callable[[str], int]:
    """Make a function that counts the tokens of a text.

    Parameters
    ----------
    name : {"estimate", "cl100k"}
        ``estimate`` is the gateway's own rule of four bytes a token; ``cl100k`` counts with OpenAI's encoding of 2023
        and needs the package ``tiktoken`` and its vocabulary, which comes with the ``litellm`` extra.

    Returns
    -------
    callable
        Takes a text, returns tokens, >= 0. The gateway's allowance per message is not added.

    Raises
    ------
    TrainingError
        ``missing_extra``: ``cl100k`` was asked for and is not installed.
    """
    if name == "estimate":
        return lambda text: estimate_tokens(len(text.encode("utf-8", "surrogatepass")))
    return lru_cache(maxsize=_KEPT_COUNTS)(_cl100k())


def _cl100k() -> Callable[[str], int]:
    litellm = importlib.util.find_spec("litellm")
    if importlib.util.find_spec("tiktoken") is None:
        raise TrainingError(
            "counting with cl100k needs tiktoken: install the litellm extra, or use --tokens estimate",
            code="missing_extra",
        )
    if litellm is not None and litellm.submodule_search_locations:  # its wheel carries the vocabulary: no download
        folder = Path(litellm.submodule_search_locations[0], "litellm_core_utils", "tokenizers")
        if folder.is_dir():
            os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception as error:  # whatever its download raises: there is no list of it
        raise TrainingError(
            f"tiktoken has no vocabulary of cl100k here ({type(error).__name__}): install the litellm extra, or use "
            "--tokens estimate",
            code="missing_extra",
        ) from error
    return lambda text: len(encoding.encode(text, disallowed_special=()))
