"""Client keys as digests."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from penstock_gateway.key_ring import KeyRing
from penstock_gateway.settings import Settings
from penstock_gateway.settings_models import ClientKeySettings

KEY_A, KEY_B = "key-of-team-a-0123456789", "key-of-team-b-0123456789"


def _ring() -> KeyRing:
    keys = (
        ClientKeySettings(name="team-a", key=SecretStr(KEY_A)),
        ClientKeySettings(name="team-b", key=SecretStr(KEY_B)),
    )
    return KeyRing.from_settings(Settings(client_keys=keys))


def test_known_key_of_each_tenant_names_the_tenant() -> None:
    """A key stands for its tenant."""
    ring = _ring()
    assert (ring.tenant_of(KEY_A), ring.tenant_of(KEY_B)) == ("team-a", "team-b")


@pytest.mark.parametrize("presented", ["", KEY_A[:-1], KEY_A + " ", KEY_A.upper(), "ключ", "\ud800", "x" * 1_000_000])
def test_unknown_key_of_any_kind_has_no_tenant(presented: str) -> None:
    """Nothing but the exact key is accepted, and nothing presented can raise."""
    assert _ring().tenant_of(presented) is None


def test_ring_of_keys_holds_no_plain_key() -> None:
    """Neither its text nor its attributes hold a key."""
    ring = _ring()
    held = repr(ring) + "".join(repr(getattr(ring, name)) for name in KeyRing.__slots__)
    assert KEY_A not in held
    assert repr(ring) == "KeyRing(2 keys)"


def test_digests_of_two_rings_differ() -> None:
    """Each process has its own pepper, so digests cannot be compared across processes."""
    first, second = KeyRing({KEY_A: "a"}), KeyRing({KEY_A: "a"})
    assert set(first._tenants) != set(second._tenants)


def test_empty_ring_knows_nobody() -> None:
    """Without keys the ring is empty, which callers take for 'no key asked'."""
    ring = KeyRing.from_settings(Settings())
    assert len(ring) == 0
    assert ring.tenant_of("anything") is None


def test_key_file_of_a_tenant_is_read(tmp_path: Path) -> None:
    """A key may stand in a file."""
    path = tmp_path / "key"
    path.write_text(KEY_A + "\n")
    ring = KeyRing.from_settings(Settings(client_keys=(ClientKeySettings(name="a", key_file=str(path)),)))
    assert ring.tenant_of(KEY_A) == "a"
