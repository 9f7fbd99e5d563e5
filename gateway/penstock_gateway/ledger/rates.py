"""Limits that renew themselves: buckets of requests and tokens, and requests under way.

The arithmetic is in whole units, so that Redis's scripts, which have only doubles, come to the same numbers. No clock:
milliseconds are an argument. Read `RateBook`; `limit_states` and `limit_refusal` are what the Redis ledger shares.

A bucket holds one minute's allowance L and refills evenly: a token bucket (RFC 2215) of depth L and rate L/60 a second.
What is stored is how much is used, in units of 1/60,000, so that a millisecond refills exactly L units.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock_gateway.ledger.contract import Account, LimitKind, LimitState, RateLimits, Refusal, RefusalReason

UNITS: Final = 60_000
"""Of a bucket, for one request or token; also a minute in milliseconds."""
MAX_LIMIT: Final = 10**9
_PARALLEL_RETRY_SECONDS: Final = 1.0  # nobody knows when a request under way will end
_IDLE_MS: Final = 150_000  # no bucket needs more than two minutes to be whole again
_PURGED_AT_ONCE: Final = 64


class RateUse(msgspec.Struct, frozen=True, gc=False):
    """How far the limits of one account are used.

    Attributes
    ----------
    request_units, token_units : int
        In units of `UNITS`; 0 where there is no limit.
    parallel : int
    """

    request_units: int = 0
    token_units: int = 0
    parallel: int = 0


def bounded(limits: RateLimits) -> RateLimits:
    """Return limits within what buckets count exactly, from 0 to `MAX_LIMIT`: these themselves where they are."""
    requests, tokens, parallel = limits.requests_per_minute, limits.tokens_per_minute, limits.parallel_requests
    if _is_bounded(requests) and _is_bounded(tokens) and _is_bounded(parallel):
        return limits
    return RateLimits(_bounded(requests), _bounded(tokens), _bounded(parallel))


def _is_bounded(limit: int | None) -> bool:
    return limit is None or 0 <= limit <= MAX_LIMIT


def _bounded(limit: int | None) -> int | None:
    return None if limit is None else min(max(limit, 0), MAX_LIMIT)


def limit_states(scope: str, limits: RateLimits, use: RateUse) -> list[LimitState]:
    """Return what is told of an account's limits.

    Parameters
    ----------
    scope : str
    limits : RateLimits
        Within `bounded`.
    use : RateUse
        With the request at hand.
    """
    states = []
    if limits.requests_per_minute is not None:
        states.append(_bucket_state(scope, LimitKind.REQUESTS, limits.requests_per_minute, use.request_units))
    if limits.tokens_per_minute is not None:
        states.append(_bucket_state(scope, LimitKind.TOKENS, limits.tokens_per_minute, use.token_units))
    if limits.parallel_requests is not None:
        parallel = limits.parallel_requests
        states.append(LimitState(scope, LimitKind.PARALLEL, parallel, max(0, parallel - use.parallel), 0.0))
    return states


def _bucket_state(scope: str, kind: LimitKind, limit: int, used: int) -> LimitState:
    remaining = (limit * UNITS - used) // UNITS
    return LimitState(scope, kind, limit, remaining if remaining > 0 else 0, used / limit / 1000.0 if limit else 0.0)


def limit_refusal(reason: RefusalReason, scope: str, limits: RateLimits, use: RateUse, tokens: int) -> Refusal:
    """Return the refusal of a limit.

    Parameters
    ----------
    reason : RefusalReason
        ``REQUESTS``, ``TOKENS`` or ``PARALLEL``.
    scope : str
    limits : RateLimits
    use : RateUse
        Without the request at hand.
    tokens : int
        That it wants.
    """
    state = next(each for each in limit_states(scope, limits, use) if each.kind.value == reason.value)
    wait: float | None = _PARALLEL_RETRY_SECONDS
    if state.kind is not LimitKind.PARALLEL:
        wanted, used = (1, use.request_units) if state.kind is LimitKind.REQUESTS else (tokens, use.token_units)
        over = used + (wanted - state.limit) * UNITS
        wait = over / state.limit / 1000.0 if 0 < wanted <= state.limit else None
    elif state.limit == 0:
        wait = None
    return Refusal(reason, scope, wait, limit=state)


@dataclass(slots=True)
class _Bucket:
    """Units used as of a moment."""

    used: int = 0
    at_ms: int = 0

    def at(self, now_ms: int, limit: int) -> int:
        passed_ms = now_ms - self.at_ms
        if passed_ms < 0:  # the clock was set back: refill from here on, not when it has come as far again
            self.put(self.used, now_ms, limit)
            passed_ms = 0
        left = self.used - limit * (passed_ms if passed_ms < 2 * UNITS else 2 * UNITS)
        return left if left > 0 else 0

    def put(self, used: int, now_ms: int, limit: int) -> None:
        """Note what is used; a debt ends within a minute, whatever a provider says it has used."""
        most = 2 * limit * UNITS
        self.used, self.at_ms = used if 0 <= used <= most else min(max(used, 0), most), now_ms


class RateBook:
    """Buckets and requests under way of every scope, in this process; bounded by who asked in the last minutes."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[LimitKind, str], _Bucket] = OrderedDict()
        self._parallel: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many buckets and counts are remembered."""
        return len(self._buckets) + len(self._parallel)

    def use_of(self, account: Account, now_ms: int) -> RateUse:
        """Return how far an account's limits are used now."""
        limits = account.limits
        return RateUse(
            self._used(LimitKind.REQUESTS, account.scope, limits.requests_per_minute, now_ms),
            self._used(LimitKind.TOKENS, account.scope, limits.tokens_per_minute, now_ms),
            0 if limits.parallel_requests is None else self._parallel.get(account.scope, 0),
        )

    def refusal(self, accounts: Sequence[Account], tokens: int, now_ms: int) -> Refusal | None:
        """Return why a request may not pass now, or None; nothing is taken.

        Parameters
        ----------
        accounts : sequence of Account
            Their limits within `bounded`.
        tokens : int
            Upper bound.
        now_ms : int
        """
        for account in accounts:
            limits, use = account.limits, self.use_of(account, now_ms)
            requests, token_limit, parallel = (
                limits.requests_per_minute,
                limits.tokens_per_minute,
                limits.parallel_requests,
            )
            reason = None
            if requests is not None and use.request_units + UNITS > requests * UNITS:
                reason = RefusalReason.REQUESTS
            elif token_limit is not None and use.token_units + tokens * UNITS > token_limit * UNITS:
                reason = RefusalReason.TOKENS
            elif parallel is not None and use.parallel >= parallel:
                reason = RefusalReason.PARALLEL
            if reason is not None:
                return limit_refusal(reason, account.scope, limits, use, tokens)
        return None

    def take(self, accounts: Sequence[Account], tokens: int, now_ms: int) -> None:
        """Take a request and its tokens from every bucket."""
        for account in accounts:
            limits = account.limits
            if limits.requests_per_minute is not None:
                self._change(LimitKind.REQUESTS, account.scope, limits.requests_per_minute, 1, now_ms)
            if limits.tokens_per_minute is not None:
                self._change(LimitKind.TOKENS, account.scope, limits.tokens_per_minute, tokens, now_ms)
        self._purge(now_ms)

    def correct(self, accounts: Sequence[Account], tokens: int, now_ms: int) -> None:
        """Take more tokens, or give some back when the number is negative."""
        if tokens:
            for account in accounts:
                if account.limits.tokens_per_minute is not None:
                    limit = account.limits.tokens_per_minute
                    self._change(LimitKind.TOKENS, account.scope, limit, tokens, now_ms)

    def begin(self, accounts: Sequence[Account]) -> None:
        """Count a request as under way."""
        for account in accounts:
            if account.limits.parallel_requests is not None:
                self._parallel[account.scope] = self._parallel.get(account.scope, 0) + 1

    def end(self, accounts: Sequence[Account]) -> None:
        """Count it as over."""
        for account in accounts:
            if account.limits.parallel_requests is not None:
                left = self._parallel.get(account.scope, 0) - 1
                if left > 0:
                    self._parallel[account.scope] = left
                else:
                    self._parallel.pop(account.scope, None)

    def states(self, accounts: Sequence[Account], now_ms: int) -> list[LimitState]:
        """Return what is told of the limits of some accounts."""
        return [
            state
            for account in accounts
            for state in limit_states(account.scope, account.limits, self.use_of(account, now_ms))
        ]

    def _used(self, kind: LimitKind, scope: str, limit: int | None, now_ms: int) -> int:
        bucket = None if limit is None else self._buckets.get((kind, scope))
        return 0 if bucket is None or limit is None else bucket.at(now_ms, limit)

    def _change(self, kind: LimitKind, scope: str, limit: int, wanted: int, now_ms: int) -> None:
        key = (kind, scope)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(0, now_ms)
        bucket.put(bucket.at(now_ms, limit) + wanted * UNITS, now_ms, limit)
        self._buckets.move_to_end(key)

    def _purge(self, now_ms: int) -> None:
        """Forget buckets that are whole again; the one that was used longest ago comes first."""
        for _ in range(_PURGED_AT_ONCE):
            key = next(iter(self._buckets), None)
            if key is None or now_ms - self._buckets[key].at_ms < _IDLE_MS:
                return
            del self._buckets[key]
