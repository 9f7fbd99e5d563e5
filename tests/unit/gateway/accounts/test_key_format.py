"""The form of virtual keys, and the digests that stand for them."""

from __future__ import annotations

import re
import secrets

from penstock_gateway.accounts.key_format import (
    ID_PATTERN,
    MAX_PRESENTED_CHARACTERS,
    digest_of,
    holds_secret,
    new_id,
    new_secret,
    pepper_check_of,
)

PEPPER = b"0123456789abcdef"


def test_secret_of_an_id_has_prefix_id_and_256_bits() -> None:
    """A key is psk_, its public id, and 32 random bytes as base64url."""
    secret = new_secret("abcdefgh", lambda count: bytes(range(count)))
    assert secret == "psk_abcdefgh_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert len(secret) == 56 < MAX_PRESENTED_CHARACTERS


def test_id_of_any_random_bytes_is_eight_plain_characters() -> None:
    """Ids hold no characters that are mistaken for each other, whatever the bytes."""
    drawn = {new_id(lambda count, first=first: bytes((first + i) % 256 for i in range(count))) for first in range(256)}
    assert all(re.fullmatch(ID_PATTERN, key_id) for key_id in drawn)
    assert set("".join(drawn)) == set("abcdefghijkmnpqrstuvwxyz23456789")


def test_text_with_a_key_in_it_is_recognised() -> None:
    """A key is found wherever it stands; its public part alone is no secret."""
    secret = new_secret("abcdefgh", secrets.token_bytes)
    assert holds_secret(secret)
    assert holds_secret(f"x{secret}y")
    assert not holds_secret(secret[:-1])
    assert not holds_secret("psk_abcdefgh_")


def test_secrets_of_two_draws_differ() -> None:
    """The random part is drawn anew for every key."""
    assert new_secret("abcdefgh", secrets.token_bytes) != new_secret("abcdefgh", secrets.token_bytes)


def test_digest_of_one_key_depends_on_the_pepper() -> None:
    """A digest is of no use under another pepper, and text that is no valid Unicode has one too."""
    assert digest_of(PEPPER, "psk_a") != digest_of(b"f" * 16, "psk_a")
    assert len(digest_of(PEPPER, "\ud800")) == 32


def test_pepper_check_of_a_pepper_is_no_digest_of_a_key() -> None:
    """The stored check value differs by pepper and is not what any key that fits in a header is stored under."""
    assert pepper_check_of(PEPPER) != pepper_check_of(b"f" * 16)
    assert pepper_check_of(PEPPER) != digest_of(PEPPER, "penstock pepper check").hex()
