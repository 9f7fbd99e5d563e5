"""How commands to Redis fail: three kinds, all of them `StoreUnavailable`, none with a host, a key or a value in it.

Owns the codes and what may be said of a refused command. Read `RedisRefused`.
"""

from __future__ import annotations

from penstock_cache.errors import StoreUnavailable

TIMEOUT_CODE = "cache_store_timeout"
UNREACHABLE_CODE = "cache_store_unreachable"
REFUSED_CODE = "cache_store_refused"
OPEN_CODE = "redis_open"

_CREDENTIAL_REASONS = frozenset({"WRONGPASS", "NOAUTH", "credential"})


class RedisRefused(StoreUnavailable):
    """Redis answered with an error: it is there, and does not do what was asked.

    Parameters
    ----------
    reason : str
        First word of the reply, such as ``NOSCRIPT``, ``OOM`` or ``READONLY``; ``ERR`` where there is no better one,
        ``credential`` for user or password.

    Attributes
    ----------
    reason : str
    """

    default_code = REFUSED_CODE

    def __init__(self, reason: str) -> None:
        super().__init__(f"Redis refused a command ({reason}).")
        self.reason = reason


def late() -> StoreUnavailable:
    """Return the error of a command whose deadline has passed."""
    return StoreUnavailable("Redis did not answer in time.", code=TIMEOUT_CODE)


def crowded() -> StoreUnavailable:
    """Return the error of a command before which too many wait for a reply already."""
    return StoreUnavailable("Too many commands wait for Redis already.", code=TIMEOUT_CODE)


def unreachable(cause: str) -> StoreUnavailable:
    """Return the error of a connection that cannot be opened or was lost.

    Parameters
    ----------
    cause : str
        Name of the underlying error's class.
    """
    return StoreUnavailable(f"Redis cannot be reached ({cause}).", code=UNREACHABLE_CODE)


def refused(message: str) -> RedisRefused:
    """Return the error of an error reply.

    Parameters
    ----------
    message : str
        The reply's text; only its first word is used, and only when it is one of Redis's words.
    """
    word = message.split(" ", 1)[0]
    if word in _CREDENTIAL_REASONS:
        return RedisRefused("credential")
    return RedisRefused(word if word.isascii() and word.isalpha() and word.isupper() else "ERR")
