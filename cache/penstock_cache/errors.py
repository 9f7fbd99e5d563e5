"""Everything that can go wrong in this package.

::

    CacheError
    ├── StoreUnavailable     a store did not answer in time, or refused; look-ups turn it into a miss
    ├── DocumentDamaged      bytes that are not a document of ours; the entry is dropped
    ├── DirectiveError       a caller's ``x-penstock-cache`` cannot be understood
    └── RuleError            a decision rule is refused; semantic look-ups then stay off

A miss is not an error, and neither is a bypass: both are values.
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of all errors raised by ``penstock_cache``.

    Parameters
    ----------
    message : str
        One sentence for the person who has to act on it, without secrets, prompts or answers.
    code : str
        Stable identifier in ``snake_case``.
    """

    default_code = "cache_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class StoreUnavailable(CacheError):
    """The store did not answer within its deadline, or refused the command."""

    default_code = "cache_store_unavailable"


class DocumentDamaged(CacheError):
    """Stored bytes are cut, changed, or of a schema this version does not read."""

    default_code = "cache_document_damaged"


class DirectiveError(CacheError):
    """A caller's cache directive is unknown, malformed or would loosen the policy."""

    default_code = "invalid_cache_directive"


class RuleError(CacheError):
    """A decision rule's folder is missing, damaged, or made for another encoder or feature set."""

    default_code = "cache_rule_error"
