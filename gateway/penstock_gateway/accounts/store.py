"""What is asked of a place where keys, teams and tags are stored.

Two fulfil it: `file_store` and `redis_store`; one suite of tests runs on both. Read `AccountStore`.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from penstock_gateway.accounts.records import AccountSnapshot, Changes


class AccountsConflict(Exception):
    """Somebody else has changed the records since they were read; read them again."""


class AccountsLost(Exception):
    """The store is empty although records were in it before: it was flushed, or its file is gone."""


class AccountStore(Protocol):
    """Stores all records together under one version; every method has a deadline.

    Attributes
    ----------
    kind : str
        ``file`` or ``redis``.

    Notes
    -----
    Whoever changes something names the version that the change was worked out from, so that rules over several
    records (a name is given once, a team that has keys stays) hold without a lock between gateways.
    """

    kind: str

    async def version(self) -> str:
        """Return the version; cheap, asked for once or twice a second.

        Returns
        -------
        str
            Empty when nothing is stored.

        Raises
        ------
        StoreUnavailable
        AccountsDamaged
        """
        ...

    async def load(self) -> AccountSnapshot:
        """Return everything, as of one moment.

        Raises
        ------
        StoreUnavailable
        AccountsDamaged
        """
        ...

    async def commit(self, expected_version: str, changes: Changes) -> str:
        """Write a change, if the version is still the expected one.

        Returns
        -------
        str
            The new version.

        Raises
        ------
        AccountsConflict
            Nothing was written.
        AccountsLost
            A version was expected and there is none. Nothing was written.
        StoreUnavailable
            It may have been written or not.
        AccountsDamaged
            Nothing was written.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


def next_version(version: str) -> str:
    """Return a version that no other change can have: a count, and 64 random bits.

    A count alone could come again when a Redis replica takes over that had not got the last change yet.
    """
    count = version.partition("-")[0]
    return f"{int(count) + 1 if count.isdecimal() else 1}-{secrets.token_hex(8)}"
