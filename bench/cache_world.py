"""The cache that `cache.py` measures: an `AnswerCache` over either store, its entries, its requests, and clocks inside.

Entries are of two kinds. Families of four, near each other in one partition, have documents and texts: requests are
about them. All others are vectors alone, drawn as `cache_index.made_points` draws them, far from every request: they
make the index as large as it is to be. Read `World`.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
from cache_index import DIMENSION
from cache_index_kinds import entry_id
from numpy.typing import NDArray

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.categories import CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import RequestTraits
from penstock_cache.entries import CachedDocument, FloatArray, Neighbour, encode_vector
from penstock_cache.index.clustered import ClusteredIndex
from penstock_cache.index.partitions import PartitionedIndex
from penstock_cache.judging import EntryJudge
from penstock_cache.keys import CacheKey
from penstock_cache.lookups import FreshAnswer, Lookup
from penstock_cache.mirror import IndexMirror
from penstock_cache.pairs import Drafts
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.rule import (
    MANIFEST_FILE,
    POOLED,
    RULE_SCHEMA,
    DecisionRule,
    OperatingPoint,
    RuleManifest,
    load_rule,
    read_manifest,
    rule_feature_set,
)
from penstock_cache.stores import DocumentStore, IndexFollower, IndexRecord
from penstock_gateway.caching.start import DEFAULT_RULE, open_pair_model
from penstock_gateway.garbage import spare_old_objects
from penstock_routers.bundled import bundled_folder
from penstock_routers.errors import RouterError

TENANT = "tenant"
ENCODER = "bench"
FAMILY = 4
PARTITIONS = 200_000
CATEGORY = "faq"
POLICY = CategoryPolicy(mode=CacheMode.SEMANTIC, false_hit_budget=0.01, ttl_seconds=86_400.0)
CHOSEN = ChosenPolicy(CATEGORY, POLICY)
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + b"An answer of some length. " * 24 + b'"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":20,"completion_tokens":160,"total_tokens":180}}'
)
_VERBS = ("reset", "change", "cancel", "renew", "export", "delete", "find", "share")
_KINDS = (
    "first", "second", "old", "new", "main", "spare", "private", "shared", "monthly", "yearly", "printed", "digital",
    "local", "foreign", "large", "small", "free", "paid", "early", "late", "open", "closed", "common", "hid", "usual",
)  # fmt: skip
_NOUNS = ("password", "invoice", "subscription", "delivery address", "profile picture", "backup", "licence", "report")
_PLACES = ("web shop", "phone app", "customer portal", "desktop program", "company account", "team workspace")
_ROOMY_BYTES = 1 << 40


@dataclass(slots=True)
class Laps:
    """Nanoseconds of one look-up by part; `verify` is the second encoder's, which is counted as embedding."""

    spent: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, started: int) -> None:
        """Add the time since `started`."""
        self.spent[part] = self.spent.get(part, 0) + time.perf_counter_ns() - started


class TimedIndex(PartitionedIndex):
    """An index that notes its searches."""

    def __init__(self, laps: Laps) -> None:
        super().__init__(DIMENSION)
        self._laps = laps

    def search(self, partition: bytes, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Search and note the time."""
        started = time.perf_counter_ns()
        found = super().search(partition, vector, k, min_cosine)
        self._laps.add("search", started)
        return found


class TimedJudge(EntryJudge):
    """A judge that notes its judgements."""

    def __init__(self, rule: DecisionRule, laps: Laps) -> None:
        super().__init__(rule, self._vectors)
        self._laps = laps

    async def _vectors(self, texts: Sequence[str]) -> FloatArray:
        """Stand in for the second encoder: a text and its polite form have one vector, any two others have not."""
        started = time.perf_counter_ns()
        draws = [np.random.default_rng(sum(text.lower().removeprefix("please ").encode())) for text in texts]
        rows = np.stack([draw.standard_normal(32).astype(np.float32) for draw in draws])
        unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._laps.add("verify", started)
        return unit

    def prepare(self, text: str, near: Sequence[tuple[str, float]], threshold: float) -> Drafts:
        """Prepare and note the time."""
        started = time.perf_counter_ns()
        found = super().prepare(text, near, threshold)
        self._laps.add("decide", started)
        return found

    async def judge(
        self, text: str, near: Any, threshold: float, *, tenant: str | None = None, drafts: Drafts | None = None
    ) -> Any:
        """Judge and note the time."""
        started = time.perf_counter_ns()
        found = await super().judge(text, near, threshold, tenant=tenant, drafts=drafts)
        self._laps.add("decide", started)
        return found


def rule_and_name() -> tuple[DecisionRule, str]:
    """Return the bundled decision rule, or a stand-in of the same width where there is none."""
    try:
        folder = bundled_folder(DEFAULT_RULE)
        manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
    except (RouterError, OSError):
        return _stand_in(), "stand-in: one hidden layer of 32 in numpy, on the features of the real rule"
    rule = load_rule(folder, open_pair_model, encoder_id=manifest.encoder_id, verifier_id=manifest.verifier_id)
    return rule, f"bundled ({manifest.candidates} candidates)"


def _stand_in() -> DecisionRule:
    point = OperatingPoint(POOLED, "semantic", 0.01, 0.9, 1000, 100, 0, 0.01)
    manifest = RuleManifest(
        RULE_SCHEMA, rule_feature_set(), ENCODER, ENCODER, "0" * 64, 4, 0.6, 0.0, 0.0, {}, 0.5, [point], [], {}
    )
    draws = np.random.default_rng(0)
    layers: dict[int, FloatArray] = {}

    def model(features: FloatArray) -> FloatArray:
        width = features.shape[1]
        if width not in layers:
            layers[width] = draws.standard_normal((width, 32)).astype(np.float32)
        hidden = np.maximum(features @ layers[width], 0.0)
        # What it says is the second encoder's cosine; the layer is there for its time.
        answer: FloatArray = features[:, 2] + 0.0 * hidden.sum(axis=1)
        return np.where(features[:, 3] > 0, answer, 0.5)

    return DecisionRule(manifest, model)


@dataclass(frozen=True, slots=True)
class Family:
    """Four entries with documents, near each other."""

    partition: bytes
    texts: tuple[str, ...]
    vectors: FloatArray
    documents: tuple[CachedDocument, ...]


@dataclass(slots=True)
class World:
    """A mirror full of entries, and the caches over it.

    Attributes
    ----------
    mirror : IndexMirror
    laps : Laps
    rule : DecisionRule
    families : list of Family
    owners : ndarray of int, shape (n,)
        Partition of every entry.
    """

    mirror: IndexMirror
    laps: Laps
    rule: DecisionRule
    families: list[Family]
    owners: NDArray[np.int64]
    followers: list[asyncio.Task[None]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def open(self, store: DocumentStore, *, owns_documents: bool) -> AnswerCache:
        """Return a cache over a store that the mirror follows from now on; before anything is in either."""
        follower = IndexFollower(self.mirror, encoder_id=ENCODER, dimension=DIMENSION, on_problem=self.problems.append)
        self.followers.append(asyncio.create_task(follower.run(store)))
        while not follower.is_in_step:
            await asyncio.sleep(0.001)
        parts = CacheParts(
            store=cast(DocumentStore, TimedStore(store, self.laps)),
            mirror=self.mirror,
            policies={CATEGORY: POLICY, "general": POLICY},
            encoder_id=ENCODER,
            judge=TimedJudge(self.rule, self.laps),
            owns_documents=owns_documents,
        )
        return AnswerCache(parts, clock=time.time, on_problem=self.problems.append, max_answer_bytes=1 << 20)

    async def close(self) -> None:
        """Stop following."""
        for task in self.followers:
            task.cancel()
        await asyncio.gather(*self.followers, return_exceptions=True)


class TimedStore:
    """A store that notes its reads; everything else is the store's own."""

    def __init__(self, store: DocumentStore, laps: Laps) -> None:
        self._store = store
        self._laps = laps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Read and note the time."""
        started, decided = time.perf_counter_ns(), self._laps.spent.get("decide", 0)
        found = await self._store.get(tenant, entry_ids, now=now)
        # What was decided meanwhile is counted there.
        self._laps.add("fetch", started + self._laps.spent.get("decide", 0) - decided)
        return found

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Read and note the time."""
        started = time.perf_counter_ns()
        found = await self._store.find_exact(tenant, fingerprint, now=now)
        self._laps.add("fetch", started)
        return found


def make_world(placement: str, entries: int, families: int, *, capacity_bytes: int = _ROOMY_BYTES) -> World:
    """Return a world without its other entries; `fill` adds them.

    Parameters
    ----------
    placement : str
        ``one`` partition, or ``spread``: over 200,000 of them, the r-th with a share of 1/r (Zipf's law).
    entries, families : int
    capacity_bytes : int
    """
    draws = np.random.default_rng(7)
    if placement == "one":
        owners = np.zeros(entries, dtype=np.int64)
    else:
        shares = np.cumsum(1.0 / np.arange(1, PARTITIONS + 1))
        owners = np.searchsorted(shares, draws.random(entries) * shares[-1])
    laps = Laps()
    rule, _ = rule_and_name()
    mirror = IndexMirror(
        TimedIndex(laps),
        ResidentSet(CategoryQuotas(capacity_bytes, {})),
        clock=time.time,
        on_problem=lambda _: None,
    )
    # A request goes to a partition as often as the partition has entries.
    homes = draws.choice(owners, size=families)
    made = [_family(number, int(home), draws) for number, home in enumerate(homes)]
    ClusteredIndex(DIMENSION)  # what the first use of anything loads is not the entries'
    return World(mirror, laps, rule, made, owners)


async def fill(world: World, rows: NDArray[np.float16]) -> dict[str, float]:
    """Add the entries that have no documents, as a follower does; returns what that took."""
    count, now = len(world.owners), time.time()
    started, spent, longest, turn_ends_at = time.perf_counter(), 0, 0, 0.0
    for number in range(count):
        record = _filler(number, int(world.owners[number]), rows[number].tobytes(), now)
        clock = time.thread_time_ns()
        world.mirror.add(record, record.prompt_vector())
        used = time.thread_time_ns() - clock
        spent, longest = spent + used, max(longest, used)
        if time.monotonic() >= turn_ends_at:
            await asyncio.sleep(0)
            turn_ends_at = time.monotonic() + 0.002
    return {
        "seconds": time.perf_counter() - started,
        "add_cpu_us": spent / count / 1e3,
        "longest_add_cpu_ms": longest / 1e6,
    }


def memory_of(world: World, before: int) -> dict[str, float]:
    """Return bytes an entry: what the process has taken since `before`, and what the parts count.

    Notes
    -----
    An allocator keeps what is free between what is in use; it is taken again before the process grows. The figure
    without it is what the process would have after giving it back.
    """
    count, taken = len(world.owners), resident_bytes() - before
    trim()
    trimmed = resident_bytes() - before
    index, rest = world.mirror.index, world.mirror.residents.memory_bytes() + world.mirror.memory_bytes()
    assert isinstance(index, PartitionedIndex)
    return {
        "rss_bytes": taken / count,
        "trimmed_bytes": trimmed / count,
        "counted_bytes": (index.memory_bytes() + rest) / count,
        "index_bytes": index.memory_bytes() / count,
        "partitions": index.partitions(),
    }


def _filler(number: int, owner: int, vector: bytes, now: float) -> IndexRecord:
    name = entry_id(number)
    return IndexRecord(
        entry_id=name, tenant=TENANT, partition=partition_key(owner), fingerprint=bytes.fromhex(name)[::-1],
        category=CATEGORY, arm="small", tier="small", tradeoff=0.5, cost_usd="0.001", latency_ms=900.0, stored_at=now,
        expires_at=now + 86_400.0, size_bytes=1_500, is_shared=False, encoder_id=ENCODER, vector=vector,
    )  # fmt: skip


def _family(number: int, owner: int, draws: np.random.Generator) -> Family:
    """Draw four vectors with cosines of some 0.9 to each other, and questions that differ in a word or two."""
    centre = draws.standard_normal(DIMENSION)
    rows = centre + 0.33 * draws.standard_normal((FAMILY, DIMENSION))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    kind, batch = _KINDS[number % len(_KINDS)], number // len(_KINDS)
    noun, place = _NOUNS[batch % len(_NOUNS)], _PLACES[batch // len(_NOUNS) % len(_PLACES)]
    verbs = random.Random(number).sample(_VERBS, FAMILY)
    texts = tuple(f"how do i {verb} my {kind} {noun} in the {place}?" for verb in verbs)
    partition, now = partition_key(owner), time.time()
    documents = tuple(
        CachedDocument(
            entry_id=entry_id((1 << 50) + FAMILY * number + i), tenant=TENANT, partition=partition,
            fingerprint=fingerprint_of(text), prompt=text, category=CATEGORY, arm="small", tier="small", tradeoff=0.5,
            body=BODY, input_tokens=20, output_tokens=160, cost_usd="0.001", latency_ms=900.0, stored_at=now,
            expires_at=now + 86_400.0, encoder_id=ENCODER, vector=encode_vector(vectors[i]),
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    return Family(partition, texts, vectors, documents)


def partition_key(owner: int) -> bytes:
    """Return the key of a partition."""
    return bytes.fromhex(entry_id(owner + (1 << 40)))


def fingerprint_of(text: str) -> bytes:
    """Return the key of a whole request."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def look_for(partition: bytes, text: str) -> Lookup:
    """Return the look-up of a text in a partition."""
    key = CacheKey(partition, fingerprint_of(text), partition, text, False, False)
    return Lookup(TENANT, key, None, RequestTraits(), CacheDirective(), 20)


def fresh_answer() -> FreshAnswer:
    """Return an answer that may be stored."""
    return FreshAnswer(BODY, 200, "small", "small", 0.5, 20, 160, Decimal("0.001"), 0.9)


def settle() -> None:
    """Do what the gateway does before it serves, and give back what the making of points has left free."""
    spare_old_objects()


def trim() -> None:
    """Give memory back that is free but held by the allocator, where that is glibc's."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def resident_bytes() -> int:
    """Return what the process has in memory."""
    statistics = Path("/proc/self/status")
    if not statistics.exists():
        raise SystemExit("memory is read from /proc, which this system does not have")
    [line] = [line for line in statistics.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@contextmanager
def own_redis() -> Iterator[str | None]:
    """Run a ``redis-server`` of the bench's own on this host and yield its URL; None where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="penstock-redis-")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("redis-server did not start")
