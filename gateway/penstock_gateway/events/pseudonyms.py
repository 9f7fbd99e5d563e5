"""What stands for a tenant, a prompt and a conversation, where none of them may be written.

Read `Pseudonyms`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

PSEUDONYM_DIGITS: Final = 16
PROMPT_DIGITS: Final = 32
_MAX_REMEMBERED: Final = 10_000  # names of keys and teams; more are worked out anew


class Pseudonyms:
    """Turns names into hexadecimal digits, the same in every file.

    Parameters
    ----------
    key : str or None
        With one, HMAC-SHA-256: only who has it can tell whose events these are. Without one, SHA-256: whoever knows
        the names can recompute them.
    """

    def __init__(self, key: str | None = None) -> None:
        self._key = None if key is None else key.encode()
        self._known: dict[str, str] = {}

    @property
    def is_keyed(self) -> bool:
        """Whether a key is set."""
        return self._key is not None

    def tenant(self, name: str) -> str:
        """Return `PSEUDONYM_DIGITS` hexadecimal digits that stand for a tenant."""
        known = self._known.get(name)
        if known is None:
            known = self._digest(f"penstock tenant {name}")[:PSEUDONYM_DIGITS]
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[name] = known
        return known

    def prompt(self, text: str) -> str | None:
        """Return `PROMPT_DIGITS` hexadecimal digits that stand for a prompt; None without a key.

        A hash without a key would be content: short prompts can be found by trying.
        """
        return None if self._key is None else self._digest(f"penstock prompt {text}")[:PROMPT_DIGITS]

    def conversation(self, tenant: str, opening: str) -> str | None:
        """Return `PSEUDONYM_DIGITS` hexadecimal digits that stand for a tenant's conversation; None without a key."""
        if self._key is None or not opening:
            return None
        return self._digest(f"penstock conversation {tenant}\x00{opening}")[:PSEUDONYM_DIGITS]

    def _digest(self, text: str) -> str:
        content = text.encode("utf-8", "surrogatepass")
        if self._key is None:
            return hashlib.sha256(content).hexdigest()
        return hmac.digest(self._key, content, "sha256").hex()


def pseudonyms_of(name: str, key: str | None) -> frozenset[str]:
    """Return every pseudonym that a tenant can have in a folder: with the key, without it, and `name` itself.

    Parameters
    ----------
    name : str
        A tenant's name, or a pseudonym.
    key : str or None
        The configured key. Events of the time before it was set have the pseudonym without it.
    """
    found = {Pseudonyms(None).tenant(name), name}
    if key is not None:
        found.add(Pseudonyms(key).tenant(name))
    return frozenset(found)
