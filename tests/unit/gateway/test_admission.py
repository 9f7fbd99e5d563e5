"""Rules of admission: host allow-list and client keys."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.principal import OPEN_TENANT
from penstock_gateway.accounts.start import open_directory
from penstock_gateway.admission import Gatekeeper
from penstock_gateway.asgi import RequestHead
from penstock_gateway.errors import Forbidden, Unauthenticated
from penstock_gateway.settings_models import ClientKeySettings, Settings

KEY = "sk-right-0123456789"


def gatekeeper(*, bound: str = "127.0.0.1", has_keys: bool = False, allowed: tuple[str, ...] = ()) -> Gatekeeper:
    """Return a gatekeeper over one key, or over none."""
    keys = (ClientKeySettings(name="search", key=SecretStr(KEY)),) if has_keys else ()
    return Gatekeeper(open_directory(Settings(client_keys=keys)), bound_host=bound, allowed_hosts=allowed)


@pytest.mark.parametrize("host", ["localhost:4000", "127.0.0.1", "127.0.0.1:4000", "[::1]:4000", "LOCALHOST"])
def test_admit_loopback_names_are_allowed(host: str) -> None:
    """A local client may use any loopback name."""
    assert gatekeeper().admit(RequestHead(host=host)).tenant == OPEN_TENANT


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:4000",
        "",
        "127.0.0.1.nip.example",
        "169.254.169.254",
        "[::1].evil.example",
        "[::1",
        "localhost:evil.example",
        "user@localhost",
    ],
)
def test_admit_foreign_host_is_forbidden(host: str) -> None:
    """A name that somebody else controls is refused, which stops DNS rebinding."""
    with pytest.raises(Forbidden) as caught:
        gatekeeper().admit(RequestHead(host=host))
    assert caught.value.code == "host_not_allowed"


def test_admit_listed_host_and_domain_are_allowed() -> None:
    """Configured names and whole domains are accepted, their look-alikes are not."""
    keeper = gatekeeper(allowed=("llm.example.org", "*.corp.example"))
    assert keeper.admit(RequestHead(host="llm.example.org")).tenant == OPEN_TENANT
    assert keeper.admit(RequestHead(host="a.corp.example:8080")).tenant == OPEN_TENANT
    with pytest.raises(Forbidden):
        keeper.admit(RequestHead(host="evilcorp.example"))


@pytest.mark.parametrize("listed", ["[2001:db8::1]", "[2001:db8::1]:4000", "2001:db8::1"])
def test_admit_listed_address_is_allowed_however_it_is_written(listed: str) -> None:
    """An IPv6 address may be listed with or without brackets and port."""
    keeper = gatekeeper(allowed=(listed,))
    assert keeper.admit(RequestHead(host="[2001:db8::1]:4000")).tenant == OPEN_TENANT


def test_admit_wildcard_address_accepts_any_name_but_needs_the_key() -> None:
    """A server on all interfaces is protected by its keys rather than by names."""
    keeper = gatekeeper(bound="0.0.0.0", has_keys=True)
    assert keeper.admit(RequestHead(host="anything.example", credential=KEY)).tenant == "search"
    with pytest.raises(Unauthenticated):
        keeper.admit(RequestHead(host="anything.example"))


@pytest.mark.parametrize(("credential", "code"), [(None, "missing_api_key"), ("sk-wrong", "invalid_api_key")])
def test_admit_without_right_key_is_unauthenticated(credential: str | None, code: str) -> None:
    """With keys configured, a missing and a wrong key are told apart, and the key is not repeated."""
    with pytest.raises(Unauthenticated) as caught:
        gatekeeper(has_keys=True).admit(RequestHead(host="localhost", credential=credential))
    assert caught.value.code == code
    assert "sk-wrong" not in caught.value.message
