"""Which tenant a presented client key belongs to, without keeping any key.

Owns the digests of the configured keys: HMAC-SHA-256 under a random pepper that lives as long as the process. It never
holds, logs or compares a key itself. Read `KeyRing.tenant_of` first.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_secrets import read_secret

MAX_PRESENTED_CHARACTERS = 1024
_PEPPER_BYTES = 32


class KeyRing:
    """The client keys of one configuration, as digests.

    Parameters
    ----------
    keys : mapping of str to str
        Key → tenant; the keys are digested at once and not kept.
    """

    __slots__ = ("_pepper", "_tenants")

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._pepper = secrets.token_bytes(_PEPPER_BYTES)
        self._tenants = {self._digest(key): tenant for key, tenant in keys.items()}

    @classmethod
    def from_settings(cls, settings: Settings) -> KeyRing:
        """Make the ring of a configuration.

        Raises
        ------
        SecretFileError
            A key file cannot be used (`load_settings` reports that earlier, with its line).
        """
        return cls({read_secret(entry.key, entry.key_file): entry.name for entry in settings.client_keys})

    def tenant_of(self, presented: str) -> str | None:
        """Return the tenant of a presented key.

        Parameters
        ----------
        presented : str
            As the client sent it, without ``Bearer``.

        Returns
        -------
        str or None
            None when the key is unknown.

        Notes
        -----
        The lookup goes by the digest under a secret pepper: what a caller can learn from its timing is about a
        digest that the caller cannot compute, so no comparison of key bytes takes place. One SHA-256 of a short
        text, about 2 µs, whatever the number of keys.
        """
        if len(presented) > MAX_PRESENTED_CHARACTERS:
            return None
        return self._tenants.get(self._digest(presented))

    def __len__(self) -> int:
        """Return the number of keys; 0 means that no key is asked for."""
        return len(self._tenants)

    def __repr__(self) -> str:
        """Show the number of keys, nothing else."""
        return f"KeyRing({len(self)} keys)"

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogatepass"), hashlib.sha256)
