"""Bytes with a checksum in front, so that what was cut or changed in a store is known.

Owns the checksum. It is no signature: whoever can write to the store can make one. Read `seal`.
"""

from __future__ import annotations

import hashlib


def seal(content: bytes, size: int) -> bytes:
    """Return bytes with a BLAKE2b checksum of `size` bytes in front."""
    return hashlib.blake2b(content, digest_size=size).digest() + content


def unseal(stored: bytes, size: int) -> bytes | None:
    """Return what was sealed; None when it was cut or changed, or is empty."""
    content = stored[size:]
    is_whole = hashlib.blake2b(content, digest_size=size).digest() == stored[:size]
    return content if content and is_whole else None
