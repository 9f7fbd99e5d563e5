"""What the doctor concludes from what it sees, without asking anybody."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from penstock_gateway.doctor_checks import Check, run_checks
from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.doctor_machine import look_at_descriptors, look_at_folders, look_at_gpu, port_holder
from penstock_gateway.doctor_providers import places_of
from penstock_gateway.doctor_redis import RedisUse, info_of, settings_findings, uses_of
from penstock_gateway.doctor_risks import bits_of, look_at_risks
from penstock_gateway.findings import Finding
from penstock_gateway.settings import build_deployments, load_settings
from penstock_gateway.settings_models import RoutingSettings, Settings

KEY = "Vq3-xT9_wLr7Zk2mPd8sYb4h"
CONFIG = """
version: 1
routing: {artifact: none}
deployments:
  - {name: a, base_url: "https://one.example/v1", api_key: "${KEY}", tier: small, price: {input: 1, output: 2}}
  - {name: b, base_url: "https://one.example/v1", api_key: "${KEY}", tier: large, price: {input: 1, output: 2}}
  - {name: c, base_url: "https://two.example/v1", api_key: "${KEY}", tier: large, price: {input: 1, output: 2}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of three deployments."""
    return load(tmp_path)


def load(folder: Path, addition: str = "", **environ: str) -> Settings:
    """Return the settings of the configuration above, with additions."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG + addition)
    return load_settings(path, {"KEY": KEY, **environ})


def levels(findings: tuple[Finding, ...]) -> dict[str, str]:
    """Return the worst level by subject."""
    order = ("ok", "warn", "fail")
    found: dict[str, str] = {}
    for each in findings:
        found[each.subject] = max(found.get(each.subject, "ok"), each.level, key=order.index)
    return found


def test_checks_that_hang_are_given_up_and_named_while_the_others_are_reported() -> None:
    """In the order of the checks, whichever came first."""
    never, seen = threading.Event(), []

    def hang() -> tuple[Finding, ...]:
        never.wait()
        return ()

    checks = [
        Check("slow", hang, "look at DNS"),
        Check("quick", lambda: (Finding("ok", "quick", "well"),), ""),
        Check("broken", lambda: (_ for _ in ()).throw(ValueError(KEY)), ""),  # type: ignore[return-value]
    ]
    looked = run_checks(checks, 0.3, on_progress=lambda done, total: seen.append((done, total)))
    never.set()
    assert [each.subject for each in looked.findings] == ["slow", "quick", "broken"]
    assert looked.findings[0] == Finding("fail", "slow", "no answer within 0.3 s", "look at DNS")
    assert looked.late == ("slow",)
    assert seen == [(1, 3), (2, 3)]
    assert looked.findings[2].level == "fail"
    assert KEY not in str(looked)
    assert run_checks([], 0.0).findings == ()


@pytest.mark.parametrize(
    ("offsets", "level", "word"),
    [
        ((), "ok", "nobody"),
        ((1.0, -2.0), "ok", "agrees"),
        ((9.0,), "warn", "9 s behind"),
        ((-30.0, -31.0, 5_000.0), "warn", "30 s ahead of"),  # one server's own clock is wrong
        ((300.0, 302.0), "fail", "301 s behind"),
    ],
)
def test_clock_is_compared_with_the_median_of_others(offsets: tuple[float, ...], level: str, word: str) -> None:
    """A second is what a Date header leaves out; minutes break TLS."""
    clocks = Clocks(lambda: 1_000.0)
    for number, offset in enumerate(offsets):
        clocks.note(f"host-{number}", 1_000.0 + offset)
    clocks.note("silent", None)
    finding = clocks.finding()
    assert (finding.level, word in finding.detail) == (level, True)
    assert bool(finding.fix) is (level != "ok")


def test_provider_places_of_one_address_and_key_are_looked_at_once(settings: Settings) -> None:
    """Ten deployments of one provider are one request; the key is in no representation."""
    places = places_of(build_deployments(settings))
    assert [place.names for place in places] == [("a", "b"), ("c",)]
    assert KEY not in repr(places)


@pytest.mark.parametrize(
    ("addition", "environ", "subject", "level"),
    [
        ("", {}, "settings", "ok"),
        ('client_keys: [{name: ann, key: "${WEAK}"}]\n', {"WEAK": "a" * 20}, "client_keys: ann", "warn"),
        ('admin: {port: 4001, key: "${WEAK}"}\n', {"WEAK": "secretsecretsecret"}, "admin.key", "warn"),
        ('admin: {port: 4001, host: 0.0.0.0, key: "${STRONG}"}\n', {}, "admin.host", "warn"),
        ("events: {folder: log, capture_content: true}\n", {}, "events.capture_content", "warn"),
        ("events: {folder: log, capture_content: true, content_days: 7}\n", {}, "events.capture_content", "ok"),
        ("accounts: {store: file, folder: keys}\n", {}, "accounts.pepper", "warn"),
    ],
)
def test_risky_setting_is_named_with_its_remedy_and_without_a_secret(
    tmp_path: Path, addition: str, environ: dict[str, str], subject: str, level: str
) -> None:
    """Each risk by the setting that causes it."""
    secrets = {"STRONG": "Kp7-wQ2_zTn9Xr5vLb3cMd6j", **environ}
    findings = look_at_risks(load(tmp_path, addition, **secrets))
    assert levels(findings) == {subject: level}
    assert all(each.fix for each in findings if each.level != "ok")
    assert not any(secret in str(findings) for secret in (KEY, *secrets.values()))


def test_risky_key_over_http_and_open_door_are_named(settings: Settings) -> None:
    """A key in clear to another machine; a gateway for everybody."""
    entry = settings.deployments[0].model_copy(update={"base_url": "http://models.example/v1"})
    server = settings.server.model_copy(update={"host": "0.0.0.0"})
    findings = look_at_risks(settings.model_copy(update={"deployments": (entry,), "server": server}))
    assert levels(findings) == {"server.host": "warn", "deployments": "warn"}
    local = settings.deployments[0].model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    assert levels(look_at_risks(settings.model_copy(update={"deployments": (local,)}))) == {"settings": "ok"}


@pytest.mark.parametrize(("key", "is_weak"), [("a" * 64, True), ("0123456789abcdef", False), (KEY, False), ("", True)])
def test_weakness_of_a_key_is_in_its_repetition(key: str, is_weak: bool) -> None:
    """By entropy of its own characters."""
    assert (bits_of(key) < 64.0) is is_weak


def use(*features: Any) -> RedisUse:
    """Return a Redis of some features."""
    return RedisUse("redis://127.0.0.1/0", features, 0.05)


@pytest.mark.parametrize(
    ("features", "facts", "level", "word"),
    [
        (("ledger",), {"redis_version": "7.2.4", "maxmemory_policy": "noeviction"}, None, ""),
        (("ledger",), {"redis_version": "4.0.14"}, "fail", "version 4.0.14"),
        (("ledger", "cache"), {"maxmemory_policy": "allkeys-lru"}, "fail", "allkeys-lru"),
        (("cache",), {"maxmemory_policy": "allkeys-lru", "maxmemory": "1"}, None, ""),
        (("ledger", "cache"), {"maxmemory": "0"}, "warn", "no maxmemory"),
        (("accounts",), {"aof_enabled": "0", "rdb_last_save_time": "1"}, "warn", "append-only"),
        (("ledger",), {"aof_enabled": "0", "rdb_last_save_time": "0"}, "ok", "keeps nothing on disk"),
        (("cache",), {"aof_enabled": "0", "rdb_last_save_time": "0"}, None, ""),
        (("ledger",), {"rdb_last_bgsave_status": "err"}, "fail", "its disk"),
        (("cache",), {"loading": "1"}, "warn", "loading"),
        (("ledger",), {}, None, ""),
    ],
)
def test_redis_is_judged_by_what_is_kept_in_it(
    features: tuple[str, ...], facts: dict[str, str], level: str | None, word: str
) -> None:
    """Eviction is right for a cache and loses budgets; what INFO does not tell is not judged."""
    findings = settings_findings(use(*features), facts)
    assert [each.level for each in findings] == ([] if level is None else [level])
    assert all(word in each.detail and each.fix for each in findings)


@pytest.mark.parametrize(
    "reply",
    [
        b"# Server\r\nredis_version:7.0.1\r\nredis_mode:standalone\r\n",
        {"redis_version": "7.0.1", "redis_mode": "standalone"},
        {"127.0.0.1:7000": {"redis_version": "7.0.1", "redis_mode": "standalone"}, "127.0.0.1:7001": {}},
        {"127.0.0.1:7000": b"redis_version:7.0.1\r\nredis_mode:standalone\r\n"},
    ],
)
def test_info_of_redis_is_read_in_every_form(reply: object) -> None:
    """As bytes, as a client's mapping, and as that of a cluster."""
    assert info_of(reply) == {"redis_version": "7.0.1", "redis_mode": "standalone"}


def test_redis_that_several_features_share_is_looked_at_once(tmp_path: Path) -> None:
    """One with all its features and the shortest of their deadlines; a feature that is off asks nothing."""
    found = uses_of(load(tmp_path, 'ledger: {kind: redis, redis_timeout_seconds: 0.2}\nredis: {url: "${URL}"}\n'
                                   'accounts: {store: redis, pepper: "${P}", timeout_seconds: 0.5}\n',
                         URL="redis://:hunter2hunter2@127.0.0.1/0", P=KEY[::-1]))  # fmt: skip
    assert [(each.features, each.deadline_seconds) for each in found] == [(("ledger", "accounts", "answers"), 0.05)]
    assert "hunter2" not in repr(found)
    assert uses_of(load(tmp_path)) == ()


@pytest.mark.parametrize(("limit", "level"), [(2_304, "ok"), (2_303, "warn"), (-1, "ok")])
def test_open_files_are_compared_with_two_for_each_request(settings: Settings, limit: int, level: str) -> None:
    """The client's connection and the provider's, and some to spare."""
    assert look_at_descriptors(settings, limit=limit)[0].level == level


def test_folder_that_cannot_be_used_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    """A file in the way; a folder that is not there yet is fine, and is not made."""
    (tmp_path / "file").write_text("")
    for name, level in (("log/later", "ok"), ("file/log", "fail")):
        events = settings.events.model_copy(update={"folder": str(tmp_path / name), "max_bytes": 1})
        findings = look_at_folders(settings.model_copy(update={"events": events}))
        assert levels(findings) == {"events.folder": level}
    assert not (tmp_path / "log").exists()
    events = settings.events.model_copy(update={"folder": str(tmp_path / "log"), "max_bytes": 1 << 60})
    assert levels(look_at_folders(settings.model_copy(update={"events": events}))) == {"events.folder": "warn"}


@pytest.mark.parametrize(
    ("device", "has_build", "has_driver", "level"),
    [
        ("auto", False, False, "ok"),
        ("cuda", False, False, "fail"),
        ("auto", True, False, "warn"),
        ("cuda", True, False, "fail"),
        ("auto", False, True, "ok"),
        ("cuda", False, True, "fail"),
        ("cpu", True, True, "ok"),
        ("cuda", True, True, "fail"),  # this machine's runtime has no CUDA provider, whatever its driver
    ],
)
def test_gpu_is_judged_by_what_was_asked_for(
    tmp_path: Path, device: Any, has_build: bool, has_driver: bool, level: str
) -> None:
    """What was demanded and is missing is a failure; what could be had and is not used is said."""
    drivers = tmp_path / "version"
    if has_driver:
        drivers.write_text("NVRM version: 550")
    versions = {"onnxruntime-gpu": "1.20"} if has_build else {}
    (finding,) = look_at_gpu(RoutingSettings(device=device), versions.get, drivers=drivers)
    assert finding.level == level
    assert bool(finding.fix) or level == "ok"


def test_holder_of_a_port_is_named_by_its_process() -> None:
    """By Linux's own tables; nobody, when nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert port_holder(port) is None
        taken.listen()
        holder = port_holder(port)
    if not Path("/proc/net/tcp").exists():
        pytest.skip("there is no /proc here")
    import os

    assert holder is not None
    assert holder.endswith(f"(pid {os.getpid()})")


def test_findings_as_json_hold_no_secret(tmp_path: Path) -> None:
    """Neither a key of the configuration nor a password in a URL."""
    settings = load(
        tmp_path, 'ledger: {kind: redis}\nredis: {url: "${URL}"}\n', URL="redis://:hunter2hunter2@127.0.0.1/0"
    )
    shown = json.dumps([each.as_dict() for each in (*look_at_risks(settings), *look_at_folders(settings))])
    assert KEY not in shown
    assert isinstance(settings.redis.url, SecretStr)
    assert "hunter2" not in shown
