"""Rules of what a test run may see of the machine it runs on."""

from __future__ import annotations

import os
import socket

import pytest

from support.isolation import is_loopback, is_removed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", b"localhost", "", None, "0.0.0.0"])
def test_is_loopback_of_this_machine_is_true(host: object) -> None:
    """A test may talk to this machine."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.4", "8.8.8.8", "2001:db8::1", "example.org", b"example.org"])
def test_is_loopback_of_another_machine_is_false(host: object) -> None:
    """A test may talk to no other machine, in a private range or not."""
    assert not is_loopback(host)


def test_connect_beyond_loopback_is_refused() -> None:
    """A connection off this machine is refused before a packet leaves."""
    with socket.socket() as connection, pytest.raises(ConnectionRefusedError, match="never reach the network"):
        connection.connect(("192.0.2.1", 80))


def test_name_lookup_beyond_loopback_is_refused() -> None:
    """A name off this machine does not resolve, whatever the machine's resolver would say."""
    with pytest.raises(socket.gaierror, match="never reach the network"):
        socket.getaddrinfo("example.org", 443)


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "https_proxy", "PENSTOCK__PORT"],
)
def test_is_removed_of_a_credential_or_setting_is_true(name: str) -> None:
    """Credentials, proxies and settings of ours never reach a test."""
    assert is_removed(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "PENSTOCK_DATA", "LANG", "TOKENIZERS_PARALLELISM"])
def test_is_removed_of_an_ordinary_variable_is_false(name: str) -> None:
    """The rest of the environment stays, and so does the name of the data folder."""
    assert not is_removed(name)


def test_environment_of_a_test_holds_no_credential() -> None:
    """What is to be removed is gone when a test runs; the litellm adapter sets switches of its own."""
    assert [name for name in os.environ if is_removed(name) and not name.startswith("LITELLM_")] == []
