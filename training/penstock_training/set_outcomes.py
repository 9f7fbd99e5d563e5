"""Outcomes of Parquet data sets, read and encoded by an engine's workers; no prompt's text comes here.

Owns the order of these steps and the matrix that stands for them. What it holds equals what `load_outcomes` and
`encode_prompts` make of the same files, number for number. Must not know where an engine works. Read `load_sets`, then
`SetOutcomes.encode`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.errors import RouterError
from penstock_routers.features import prompt_features
from penstock_routers.token_counts import message_tokens
from penstock_training.engines.protocol import Engine
from penstock_training.errors import TrainingError
from penstock_training.languages import language_of
from penstock_training.outcome_checks import LoadReport, is_edited
from penstock_training.outcome_files import join_raw
from penstock_training.outcomes import OutcomeMatrix, assemble_outcomes, content_digest
from penstock_training.parquet_sets import Chunk, ScannedChunk, list_chunks, read_texts, scan_chunk, set_name
from penstock_training.progress import Progress
from penstock_training.splits import normalise_question
from penstock_training.vectors import BLOCK

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

_RANGES: Final = 32  # into which questions are divided to be numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedMatrix(OutcomeMatrix):
    """An outcome matrix whose `prompts` are keys (`prompt_key`), with what was computed where the texts are.

    Attributes
    ----------
    token_counts : ndarray of float64, shape (n,)
        The gateway's own estimate of each prompt's tokens.
    language_codes : tuple of str, length n
    full_digest : str or None
        `OutcomeMatrix.digest` of all prompts; None for some of them.
    """

    token_counts: NDArray[np.float64]
    language_codes: tuple[str, ...]
    full_digest: str | None

    def rows(self, index: IndexArray) -> KeyedMatrix:
        """Take some prompts."""
        # `super()` does not work here: a dataclass with slots is a new class.
        own = OutcomeMatrix.rows(self, index)
        languages = tuple(self.language_codes[i] for i in index)
        return _keyed(own, self.token_counts[index], languages, None)

    @property
    def text_tokens(self) -> NDArray[np.float64]:
        """The estimates from the workers."""
        return self.token_counts

    @property
    def languages(self) -> list[str]:
        """The guesses from the workers."""
        return list(self.language_codes)

    @property
    def digest(self) -> str:
        """The digest of the whole, from the workers.

        Raises
        ------
        ValueError
            These are some of the prompts.
        """
        if self.full_digest is None:
            raise ValueError("the texts of these prompts are not here, so they have no digest")
        return self.full_digest


@dataclass(frozen=True, slots=True)
class SetOutcomes:
    """Outcomes of sets, with the places of their prompts' texts.

    Attributes
    ----------
    matrix : KeyedMatrix
    report : LoadReport
    blocks : tuple of Block
        Every prompt in one of them.
    engine : Engine
    """

    matrix: KeyedMatrix
    report: LoadReport
    blocks: tuple[Block, ...]
    engine: Engine

    def encoding(self, folder: Path, encoder: PromptEncoder) -> Callable[[Progress], tuple[FloatArray, FloatArray]]:
        """Make what encodes the prompts when it is called (`encode`), as `own_router.own_corpus` takes it."""
        return lambda progress: self.encode(folder, encoder, progress)

    def encode(self, folder: Path, encoder: PromptEncoder, progress: Progress) -> tuple[FloatArray, FloatArray]:
        """Encode the prompts where their texts can be read.

        Parameters
        ----------
        folder : Path
            The encoder's; the workers open a bundled one in their own installation, another one under this path.
        encoder : PromptEncoder
            The same, opened here.
        progress : callable

        Returns
        -------
        vectors : ndarray of float32, shape (n, d)
        features : ndarray of float32, shape (n, f)

        Raises
        ------
        TrainingError
            ``encoder_differs``: a worker has no such encoder, or another one under that name; or what reading raises.
        """
        place = _EncoderPlace(str(folder), _bundled_name(folder), encoder.encoder_id)
        shared = self.engine.share(place)
        found = self.engine.map(_encoded, shared, self.blocks, lambda done, total: progress("encoding", done, total))
        return _laid_out(self.blocks, [v for v, _ in found]), _laid_out(self.blocks, [f for _, f in found])


@dataclass(frozen=True, slots=True)
class Block:
    """Prompts that follow each other in the matrix, as many as `encode_prompts` takes at a time.

    Attributes
    ----------
    rows : ndarray of int64, shape (k,)
        Their rows in the matrix.
    places : tuple of (Chunk, tuple of int, tuple of str)
        Per chunk that holds some of them: positions in `rows`, and keys.
    """

    rows: IndexArray
    places: tuple[tuple[Chunk, tuple[int, ...], tuple[str, ...]], ...]

    def texts(self) -> list[str]:
        """Read the prompts, in the order of `rows`; where the sets can be read."""
        found = [""] * self.rows.size
        for chunk, positions, keys in self.places:
            for position, text in zip(positions, read_texts(chunk, keys), strict=True):
                found[position] = text
        return found


def load_sets(
    urls: Sequence[str], engine: Engine, *, on_bad_rows: Literal["refuse", "skip"] = "refuse", progress: Progress
) -> SetOutcomes:
    """Read and check data sets.

    Parameters
    ----------
    urls : sequence of str
        Parquet files, folders of them, or URLs; their rows are put together in this order. Rows without a source get
        the name of their set.
    engine : Engine
        Its workers read; each path must exist where they are.
    on_bad_rows : {"refuse", "skip"}
    progress : callable

    Returns
    -------
    SetOutcomes

    Raises
    ------
    OutcomeError
        As `penstock_training.outcomes.load_outcomes`, and what `list_chunks` raises.

    Notes
    -----
    Texts are read four times (columns, description, numbering of the questions, encoding), each time one row group in
    one worker; what comes here is a hash, a vector and a few numbers per prompt, and the other columns.
    """
    nothing = engine.share(None)
    listed = [list_chunks(url) for url in urls]
    chunks = [chunk for each in listed for chunk in each]
    scans = engine.map(scan_chunk, nothing, chunks, lambda done, total: progress("reading", done, total))
    owner = _owners(chunks, scans)
    raws, start = [], 0
    for url, own in zip(urls, listed, strict=True):
        raws.append(join_raw(Path(set_name(url)), [scan.raw for scan in scans[start : start + len(own)]]))
        start += len(own)

    def are_edited(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Compare the few texts that must be seen here: those of queries that have several."""
        keys = sorted({key for pair in pairs for key in pair})
        texts = dict(zip(keys, _texts(keys, owner, engine), strict=True))
        return [is_edited(texts[first], texts[second]) for first, second in pairs]

    table = assemble_outcomes(raws, on_bad_rows=on_bad_rows, are_edited=are_edited)
    sample = sorted({question for scan in scans for question in scan.questions})
    blocks: list[Block] = []

    def number(keys: Sequence[str]) -> IndexArray:
        blocks.extend(_blocks(keys, owner))
        return _numbered(blocks, len(keys), sample, engine)

    matrix = table.matrix(number=number)
    return SetOutcomes(_described(matrix, blocks, engine, progress), table.report, tuple(blocks), engine)


# ------------------------------------------------------------------------------------------------ where the texts are


def _owners(chunks: Sequence[Chunk], scans: Sequence[ScannedChunk]) -> dict[str, Chunk]:
    """The first chunk that holds each prompt: there it is described and encoded, once."""
    owner: dict[str, Chunk] = {}
    for chunk, scan in zip(chunks, scans, strict=True):
        for key in scan.raw.text["prompt"].values:
            owner.setdefault(key, chunk)
    return owner


def _blocks(keys: Sequence[str], owner: Mapping[str, Chunk]) -> list[Block]:
    blocks = []
    for start in range(0, len(keys), BLOCK):
        own = keys[start : start + BLOCK]
        positions: dict[Chunk, list[int]] = {}
        for position, key in enumerate(own):
            positions.setdefault(owner[key], []).append(position)
        places = tuple((chunk, tuple(at), tuple(own[i] for i in at)) for chunk, at in positions.items())
        blocks.append(Block(np.arange(start, start + len(own)), places))
    return blocks


def _texts(keys: Sequence[str], owner: Mapping[str, Chunk], engine: Engine) -> list[str]:
    return [text for part in engine.map(_read, engine.share(None), _blocks(keys, owner)) for text in part]


def _read(shared: None, block: Block) -> list[str]:
    return block.texts()


def _laid_out(blocks: Sequence[Block], parts: Sequence[FloatArray]) -> FloatArray:
    """Put the blocks' rows where they belong, (n, k)."""
    found = np.zeros((sum(block.rows.size for block in blocks), parts[0].shape[1]), dtype=np.float32)
    for block, part in zip(blocks, parts, strict=True):
        found[block.rows] = part
    return found


# ---------------------------------------------------------------------------------------------- numbers for questions


_Piece = tuple[list[str], IndexArray]


def _numbered(blocks: Sequence[Block], prompts: int, sample: Sequence[str], engine: Engine) -> IndexArray:
    """Number the questions as `penstock_training.splits.question_groups` does: in the order of their normalised texts.

    Notes
    -----
    A sample sort: the sample's quantiles divide all questions into ranges, each block sends the questions of one range
    to one worker, which sorts them; a range's numbers begin where those of the ranges before it end.
    """
    ranges = max(1, min(_RANGES, len(blocks), len(sample)))
    bounds = [sample[number * len(sample) // ranges] for number in range(1, ranges)]
    found = engine.shuffle(_divided, _sorted_pieces, engine.share(bounds), blocks, ranges)
    groups, start = np.zeros(prompts, dtype=np.int64), 0
    for rows, ranks, count in found:
        groups[rows] = start + ranks
        start += count
    return groups


def _divided(bounds: Sequence[str], block: Block) -> list[_Piece]:
    texts: list[list[str]] = [[] for _ in range(len(bounds) + 1)]
    rows: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    for row, text in zip(block.rows.tolist(), block.texts(), strict=True):
        question = normalise_question(text)
        place = bisect.bisect_right(bounds, question)
        texts[place].append(question)
        rows[place].append(row)
    return [(own, np.array(numbers, dtype=np.int64)) for own, numbers in zip(texts, rows, strict=True)]


def _sorted_pieces(bounds: Sequence[str], pieces: Sequence[_Piece]) -> tuple[IndexArray, IndexArray, int]:
    """Rows, their ranks among the different questions of this range, and how many those are."""
    questions = [question for own, _ in pieces for question in own]
    number = {question: rank for rank, question in enumerate(sorted(set(questions)))}
    ranks = np.fromiter((number[question] for question in questions), dtype=np.int64, count=len(questions))
    return np.concatenate([rows for _, rows in pieces]), ranks, len(number)


# -------------------------------------------------------------------------------------------- what is told of a prompt


@dataclass(frozen=True, slots=True)
class _Described:
    """Per prompt: estimated tokens, guessed language, and its line in the content digest."""

    tokens: list[int]
    languages: list[str]
    lines: list[bytes]


def _described(matrix: OutcomeMatrix, blocks: Sequence[Block], engine: Engine, progress: Progress) -> KeyedMatrix:
    parts = [(block, matrix.rows(block.rows)) for block in blocks]
    found = engine.map(_describe, engine.share(None), parts, lambda done, total: progress("describing", done, total))
    tokens, languages = np.zeros(len(matrix.prompts)), np.full(len(matrix.prompts), "", dtype=object)
    lines: list[bytes] = []
    for block, described in zip(blocks, found, strict=True):
        tokens[block.rows], languages[block.rows] = described.tokens, described.languages
        lines += described.lines
    return _keyed(matrix, tokens, tuple(languages), content_digest(matrix.arms, lines))


def _describe(shared: None, part: tuple[Block, OutcomeMatrix]) -> _Described:
    block, matrix = part
    texts = block.texts()
    whole = replace(matrix, prompts=texts)
    return _Described([message_tokens(t) for t in texts], [language_of(t) for t in texts], whole.content_lines())


def _keyed(
    matrix: OutcomeMatrix, tokens: NDArray[np.float64], languages: tuple[str, ...], digest: str | None
) -> KeyedMatrix:
    own = {field.name: getattr(matrix, field.name) for field in fields(OutcomeMatrix)}
    return KeyedMatrix(**own, token_counts=tokens, language_codes=languages, full_digest=digest)


# ------------------------------------------------------------------------------------------------------------ encoding


@dataclass(frozen=True, slots=True)
class _EncoderPlace:
    """Where a worker finds the encoder, and which one it has to be."""

    folder: str
    bundled: str | None
    encoder_id: str


def _bundled_name(folder: Path) -> str | None:
    try:
        return folder.name if bundled_folder(folder.name).resolve() == folder.resolve() else None
    except RouterError:
        return None


def _encoded(place: _EncoderPlace, block: Block) -> tuple[FloatArray, FloatArray]:
    try:
        folder = Path(place.folder) if place.bundled is None else bundled_folder(place.bundled)
        encoder = PromptEncoder.load(folder)
    except (RouterError, OSError) as error:
        message = f"a worker cannot open the encoder {place.bundled or place.folder!r} ({error}); it needs it, too"
        raise TrainingError(message, code="encoder_differs") from error
    if encoder.encoder_id != place.encoder_id:
        raise TrainingError(
            f"a worker has the encoder {encoder.encoder_id} where this process has {place.encoder_id}",
            code="encoder_differs",
        )
    texts = block.texts()
    return encoder.encode(texts), np.stack([prompt_features(text) for text in texts])
