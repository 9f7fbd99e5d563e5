"""Loading a whole configuration: what is accepted, and every kind of refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from penstock_gateway.deployments import Ability
from penstock_gateway.settings import ConfigurationError, Settings, build_deployments, load_settings, note_settings
from penstock_gateway.settings_deployments import DEFAULT_REFERENCE_ARM
from penstock_gateway.settings_model_checks import routing_obstacle
from penstock_gateway.settings_models import DeploymentSettings
from penstock_gateway.settings_prices import PriceSettings
from penstock_routers.installation import install_command

Write = Callable[[str], Path]
KEYS = {"OPENAI_API_KEY": "sk-openai-secret", "ANTHROPIC_API_KEY": "sk-anthropic-secret"}
ONE = "deployments:\n  - {name: gpt-5.4-mini, provider: openai, tier: medium}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a configuration file in an empty working folder and return its path from there."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> Path:
        path = Path("penstock.yaml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def _problems(path: Path | None, environ: dict[str, str], **options: bool) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ, **options)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def test_settings_of_a_small_file_have_every_default(write: Write) -> None:
    """One deployment is enough; everything else has a default."""
    settings = load_settings(write(ONE), KEYS)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 4000)
    assert settings.default_arm == settings.baseline == "gpt-5.4-mini"
    assert settings.routing.tradeoff == "balanced"


def test_settings_with_many_mistakes_show_all_of_them_at_once(write: Write) -> None:
    """Mistakes of shape, of reference and between settings are shown together, in the order of the file."""
    text = (
        "server: {prt: 1, max_in_flight: 0}\n"
        "client_keys:\n  - {name: a, key: ${MISSING_KEY}}\n"
        "deployments:\n"
        "  - {name: x, provider: opanai, tier: smal}\n"
        "  - {name: x, provider: openai, price: {input: -1, output: 2}}\n"
        "routing: {default_arm: y, tradeoff: 1.5}\n"
    )
    found = _problems(write(text), KEYS)
    assert found == [
        "penstock.yaml:1: server.max_in_flight: should be at least 1, not '0'",
        "penstock.yaml:1: server.prt: there is no such setting (did you mean 'port'?)",
        "penstock.yaml:3: client_keys[0].key: environment variable MISSING_KEY is not set (export MISSING_KEY=…)",
        "penstock.yaml:5: deployments[0].tier: should be one of 'small', 'medium', 'large' or 'frontier', not 'smal' "
        "(did you mean 'small'?)",
        "penstock.yaml:5: deployments[0].provider: there is no known provider 'opanai' (did you mean 'openai'? "
        "Otherwise set adapter: litellm)",
        "penstock.yaml:6: deployments[1].price.input: should be at least 0, not '-1'",
        "penstock.yaml:6: deployments[1].name: 'x' is the name of another deployment (penstock.yaml:5)",
        "penstock.yaml:7: routing.tradeoff: a number should lie between 0 (cheapest) and 1 (best), not '1.5'",
        "penstock.yaml:7: routing.default_arm: there is no deployment 'y' (known: x)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 2\n" + ONE, "version: should be 1, not '2'"),
        ("server: 5\n" + ONE, "server: should be a mapping, not '5'"),
        ("server: {port: 70000}\n" + ONE, "server.port: should be at most 65535, not '70000'"),
        ("server: {port: '1'}\n" + ONE, "server.port: should be a whole number, not '1'"),
        ("server: {port: true}\n" + ONE, "server.port: should be a whole number, not 'True'"),
        ("log: {level: loud}\n" + ONE, "log.level: should be one of 'debug', 'info', 'warning' or 'error', not 'loud'"),
        ("deployments: []\n", "deployments: is empty"),
        ("deployments: {a: 1}\n", "deployments: should be a list"),
        ("deployments: [text]\n", "deployments[0]: should be a mapping, not 'text'"),
        ("deployments: [{provider: openai}]\n", "deployments[0].name: is required (add 'name: …')"),
        (
            "deployments: [{name: 4, provider: openai}]\n",
            "deployments[0].name: should be text, not '4' (put it in quotes)",
        ),
        ("deployments: [{name: 'a b', provider: openai}]\n", "deployments[0].name: should match"),
        (ONE.replace("}", ", abilities: [tools, sight]}"), "deployments[0].abilities[1]: should be one of"),
        (ONE.replace("}", ", timeouts: {idle_seconds: 0}}"), "timeouts.idle_seconds: should be more than 0"),
        (ONE.replace("}", ", timeouts: {idle_seconds: .inf}}"), "timeouts.idle_seconds: should be a number"),
        (ONE.replace("}", ", price: {input: nan, output: 1}}"), "price.input: should be a finite number"),
        (ONE.replace("}", ", price: {input: 1000000, output: 1}}"), "price.input: should be at most 100000"),
        (ONE.replace("}", ", price: {input: 1}}"), "deployments[0].price.output: is required"),
        (ONE.replace("}", ", headers: {'a b': c}}"), "deployments[0].headers.a b: should match"),
        (ONE.replace("}", ", headers: {Host: c}}"), "headers.Host: is set by the gateway itself (remove it)"),
        (ONE.replace("medium}", "medium, routable: false}"), "deployments: has no routable deployment for 'auto'"),
        (ONE + "routing: {baseline: gpt-5.4-mni}\n", "routing.baseline: there is no deployment 'gpt-5.4-mni' (did you"),
        ("deployments: [{name: auto, provider: openai}]\n", "'auto' is how clients let Penstock choose"),
        ("deployments: [{name: 'auto@1', provider: openai}]\n", "'auto@1' is how clients let Penstock choose"),
        ("deployments: [{name: mine}]\n", "deployments[0].provider: 'mine' has neither provider nor base_url"),
        (
            "deployments: [{name: mine, provider: openai_compatible}]\n",
            "deployments[0].base_url: 'mine' needs a base_url",
        ),
        ("deployments: [{name: mine, base_url: 'http://h'}]\n", "price: the price of openai_compatible model 'mine'"),
        ("deployments: [{name: gpt-5, provider: groq}]\n", "environment variable GROQ_API_KEY is not set"),
        (
            "deployments: [{name: gpt-6-sol-x, provider: openai}]\n",
            "the price of openai model 'gpt-6-sol-x' is not known",
        ),
    ],
)
def test_settings_with_one_mistake_say_what_is_wrong(write: Write, text: str, expected: str) -> None:
    """Each kind of mistake has its own sentence, with the place."""
    found = _problems(write(text), KEYS)
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("penstock.yaml:") for problem in found), found


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("ftp://h/v1", "should start with https://"),
        ("h/v1", "should start with https://"),
        ("https://", "should start with https://"),
        ("https://user:pw@h/v1", "should hold no credentials"),
        ("https://h/v1#x", "should have no query and no fragment"),
        ("https://h/v1?a=b", "should have no query and no fragment"),
        ("https://h/v1/chat/completions", "should end before /chat/completions"),
        ("https://h h/v1", "should have no white space"),
        ("https://[::1/v1", "is not a URL"),
        ("https://h:99999/v1", "is not a URL"),
    ],
)
def test_base_url_that_cannot_work_is_refused(write: Write, base_url: str, expected: str) -> None:
    """A base URL is http(s) with a host, without credentials, query, fragment or the endpoint's own path."""
    text = f"deployments:\n  - {{name: a, base_url: '{base_url}', price: {{input: 1, output: 1}}}}\n"
    found = _problems(write(text), {})
    assert len(found) == 1
    assert expected in found[0]
    assert ":pw@" not in found[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_open_address_without_client_keys_is_refused_unless_insecure(write: Write, host: str) -> None:
    """Another address than loopback needs a client key or the explicit option."""
    path = write(f"server: {{host: '{host}'}}\n{ONE}")
    assert "there are no client keys" in _problems(path, KEYS)[0]
    assert load_settings(path, KEYS, is_insecure=True).server.host == host
    keyed = write(f"server: {{host: '{host}'}}\nclient_keys: [{{name: a, key: ${{K}}}}]\n{ONE}")
    assert load_settings(keyed, {**KEYS, "K": "0123456789abcdef"}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "localhost", "::1"])
def test_loopback_address_without_client_keys_is_accepted(write: Write, host: str) -> None:
    """On loopback no key is needed."""
    assert load_settings(write(f"server: {{host: '{host}'}}\n{ONE}"), KEYS).server.host == host


def test_missing_litellm_for_its_adapter_is_refused_with_the_command(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that needs litellm where it is not installed names the install command."""
    monkeypatch.setattr("penstock_gateway.settings_checks.find_spec", lambda _: None)
    text = "deployments: [{name: nova, provider: bedrock, model: amazon.nova-pro-v1:0}]\n"
    assert f"run: {install_command('litellm')}" in _problems(write(text), {})[0]


def test_client_keys_that_clash_are_refused_without_showing_them(write: Write) -> None:
    """Two tenants with one key, a short key and an absent key are problems; no key is shown."""
    text = "client_keys:\n  - {name: a, key: ${K}}\n  - {name: b, key: ${K}}\n  - {name: c}\n  - {name: d, key: ${S}}\n"
    found = _problems(write(text + ONE), {**KEYS, "K": "0123456789abcdef", "S": "short-secret"})
    assert found == [
        "penstock.yaml:3: client_keys[1]: 'b' has the same key as 'a' (give each its own)",
        "penstock.yaml:4: client_keys[2]: 'c' has neither key nor key_file (add 'key: ${VARIABLE}')",
        "penstock.yaml:5: client_keys[3].key: should have at least 16 characters",
    ]


@pytest.mark.parametrize("key", ["schlüssel-0123456789", " 0123456789abcdef", "0123456789\tabcdef"])
def test_client_key_that_no_header_can_carry_is_refused(write: Write, key: str) -> None:
    """A key that would never match what a client sends is a problem at its line, and is not shown."""
    found = _problems(write("client_keys: [{name: a, key: ${K}}]\n" + ONE), {**KEYS, "K": key})
    assert len(found) == 1
    assert "no client can send" in found[0]
    assert key not in found[0]


def test_key_files_that_cannot_be_used_are_refused(write: Write, tmp_path: Path) -> None:
    """A key file that is missing, empty, of two lines or writable by everybody is a problem at its line."""
    for name, content, mode in (("empty", "", 0o600), ("two", "a" * 16 + "\nb\n", 0o600), ("open", "a" * 16, 0o602)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    lines = [f"  - {{name: {name}, key_file: {name}}}\n" for name in ("none", "empty", "two", "open")]
    found = _problems(write("client_keys:\n" + "".join(lines) + ONE), KEYS)
    for line, expected in zip(found, ("No such file", "one line", "one line", "chmod o-w"), strict=True):
        assert expected in line
    assert [line.partition(": ")[0] for line in found] == [f"penstock.yaml:{number}" for number in (2, 3, 4, 5)]


def test_key_file_beside_the_configuration_is_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative key file starts at the configuration's folder, whatever the working folder; white space is cut."""
    (tmp_path / "upstream.key").write_text("sk-from-file\n")
    (tmp_path / "upstream.key").chmod(0o644)
    path = write(ONE.replace("}", ", api_key_file: upstream.key}")).absolute()
    monkeypatch.chdir("/")
    settings = load_settings(path, {})
    assert build_deployments(settings)[0].api_key == "sk-from-file"
    assert any("may be read by everybody" in note.message for note in note_settings(settings))


def test_settings_from_anywhere_never_show_a_secret(write: Write) -> None:
    """Neither settings nor deployments nor problems show a credential."""
    text = "client_keys: [{name: a, key: ${K}}]\n" + ONE.replace("}", ", headers: {X-Token: ${T}}}")
    environ = {**KEYS, "K": "client-secret-0123456789", "T": "header-secret"}
    settings = load_settings(write(text), environ)
    shown = repr(settings) + str(settings) + repr(build_deployments(settings)) + settings.model_dump_json()
    found = _problems(write(text + "serve: 1\n"), environ)
    for secret in ("sk-openai-secret", "client-secret-0123456789", "header-secret"):
        assert secret not in shown
        assert secret not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "decisions: ${TEAM_KEY}\n",
        "client_keys: [${TEAM_KEY}, sk-literal-0123456789]\n",
        "server: {port: ${TEAM_KEY}, host: ${TEAM_KEY}}\n",
        "routing: {default_arm: ${TEAM_KEY}}\n",
        "deployments: [{name: a, provider: ${TEAM_KEY}, model: ${TEAM_KEY}}]\n",
    ],
)
def test_secret_in_the_wrong_place_is_not_shown(write: Write, text: str) -> None:
    """A key that stands where something else should is blotted out of the problem that it causes."""
    found = _problems(write(text), {**KEYS, "TEAM_KEY": "sk-team-0123456789"})
    assert found
    assert "sk-team-0123456789" not in str(found)
    assert "sk-literal" not in str(found)


def test_secret_with_a_line_break_is_refused_without_showing_it(write: Write) -> None:
    """A credential that could smuggle a header is a problem."""
    found = _problems(write(ONE), {"OPENAI_API_KEY": "sk-a\r\nX-Evil: 1"})
    assert "cannot stand in an HTTP header" in found[0]
    assert "Evil" not in found[0]


def test_default_key_of_a_provider_never_goes_to_another_host(write: Write) -> None:
    """A deployment with its own base URL gets no credential that it did not name."""
    text = ONE.replace("}", ", base_url: 'http://127.0.0.1:9/v1'}")
    assert build_deployments(load_settings(write(text), KEYS))[0].api_key == ""
    assert build_deployments(load_settings(write(ONE), KEYS))[0].api_key == "sk-openai-secret"


def test_prices_in_a_file_stay_exact(write: Write) -> None:
    """A price reaches the bill digit for digit."""
    text = ONE.replace("}", ", price: {input: 0.1, output: 12345.000003}}")
    price = build_deployments(load_settings(write(text), KEYS))[0].price
    assert (price.input, price.cached_input) == (Decimal("0.1"), Decimal("0.1"))
    assert (price.output, price.reasoning) == (Decimal("12345.000003"), Decimal("12345.000003"))
    assert price.source == "configuration"


def test_float_price_in_python_is_refused() -> None:
    """A binary float is no price; text and Decimal are."""
    with pytest.raises(ValidationError, match="Decimal or text"):
        PriceSettings(input=0.1, output=Decimal(1))  # type: ignore[arg-type]
    assert PriceSettings(input="0.1", output=1).input == Decimal("0.1")  # type: ignore[arg-type]


def test_settings_once_made_cannot_be_changed() -> None:
    """Settings are frozen."""
    settings = Settings(deployments=(DeploymentSettings(name="a", base_url="http://h/v1"),))
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "tiers"),
    [
        ({"OPENAI_API_KEY": "k"}, 4),
        ({"ANTHROPIC_API_KEY": "k"}, 4),
        (KEYS, 8),
    ],
)
def test_provider_keys_without_a_file_give_a_working_set(write: Write, environ: dict[str, str], tiers: int) -> None:
    """With only provider keys there is one priced, direct, routable deployment per provider and tier."""
    settings = load_settings(None, environ)
    deployments = build_deployments(settings)
    assert len(deployments) == tiers
    assert {deployment.tier for deployment in deployments} == {"small", "medium", "large", "frontier"}
    for deployment in deployments:
        assert deployment.adapter == "direct"
        assert deployment.base_url.startswith("https://api.")
        assert deployment.price.output > 0
        assert deployment.api_key
        assert deployment.arm == deployment.tier
    default = next(deployment for deployment in deployments if deployment.name == settings.default_arm)
    assert default.tier == "large"
    assert "temperature" not in default.parameters.droppable


def test_base_url_variable_without_a_file_is_respected(write: Write) -> None:
    """OPENAI_BASE_URL moves the OpenAI deployments and no others."""
    settings = load_settings(None, {**KEYS, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1/"})
    urls = {deployment.provider: deployment.base_url for deployment in build_deployments(settings)}
    assert urls == {"openai": "http://127.0.0.1:9/v1", "anthropic": "https://api.anthropic.com/v1"}


def test_nothing_at_all_says_what_to_do_next(write: Write) -> None:
    """Without file and keys there is one problem, with the next commands."""
    found = _problems(None, {})
    assert len(found) == 1
    assert "penstock demo" in found[0]
    assert "OPENAI_API_KEY" in found[0]


def test_configuration_variable_names_the_file(write: Write, tmp_path: Path) -> None:
    """PENSTOCK_CONFIG wins over ./penstock.yaml, and a wrong one is a problem."""
    write("server: {port: 1}\n" + ONE)
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 2}\n" + ONE)
    assert load_settings(None, KEYS).server.port == 1
    assert load_settings(None, {**KEYS, "PENSTOCK_CONFIG": str(other)}).server.port == 2
    assert "cannot be read" in _problems(None, {**KEYS, "PENSTOCK_CONFIG": "/nowhere.yaml"})[0]


def test_wrong_variable_is_reported_by_its_name(write: Write) -> None:
    """A problem in the environment names the variable."""
    environ = {**KEYS, "PENSTOCK__SERVER__PRT": "1", "PENSTOCK__SERVER__PORT": "abc"}
    assert _problems(write(ONE), environ) == [
        "PENSTOCK__SERVER__PORT: server.port: should be a whole number, not 'abc'",
        "PENSTOCK__SERVER__PRT: server.prt: there is no such setting (did you mean 'port'?)",
    ]


def test_highest_tier_of_the_routable_deployments_is_the_default_arm() -> None:
    """Without a setting, the default arm is the first of the highest tier that may be routed to."""
    entries = (
        DeploymentSettings(name="none", base_url="http://h/v1"),
        DeploymentSettings(name="large-1", base_url="http://h/v1", tier="large"),
        DeploymentSettings(name="large-2", base_url="http://h/v1", tier="large"),
        DeploymentSettings(name="frontier", base_url="http://h/v1", tier="frontier", routable=False),
    )
    assert Settings(deployments=entries).default_arm == "large-1"


def test_abilities_in_a_file_become_a_set(write: Write) -> None:
    """Configured abilities replace the snapshot's."""
    text = ONE.replace("}", ", abilities: [tools]}")
    assert build_deployments(load_settings(write(text), KEYS))[0].abilities == {Ability.TOOLS}


LOCAL = "{base_url: 'http://127.0.0.1:9/v1', price: {input: 1, output: 1}, "


def _own_artifact(folder: Path) -> None:
    """Write as much of a manifest as the settings read."""
    folder.mkdir()
    arms = [{"name": name} for name in ("tiny", "mid", "big")]
    (folder / "manifest.json").write_text(json.dumps({"arms": arms, "reference_arm": "big"}))


def test_default_arm_with_an_own_artifact_is_its_reference_arm(write: Write, tmp_path: Path) -> None:
    """Without tiers, the deployment on the arm that the artifact was measured with answers in doubt."""
    _own_artifact(tmp_path / "my-router")
    deployments = "".join(f"  - {LOCAL}name: {name}}}\n" for name in ("tiny", "mid", "big"))
    path = write(f"routing: {{artifact: ./my-router}}\ndeployments:\n{deployments}")
    settings = load_settings(path, {})
    assert settings.default_arm == settings.baseline == "big"
    assert not [note for note in note_settings(settings) if note.setting == "routing.default_arm"]
    chosen = load_settings(path, {"PENSTOCK__ROUTING__DEFAULT_ARM": "mid"})
    assert chosen.default_arm == "mid"
    assert "measured with 'big'" in str(note_settings(chosen))


def test_default_arm_without_a_deployment_on_the_reference_arm_is_of_the_highest_tier(
    write: Write, tmp_path: Path
) -> None:
    """The tier decides where the artifact's own arm is not served, or only by name."""
    _own_artifact(tmp_path / "my-router")
    text = f"  - {LOCAL}name: a, tier: small}}\n  - {LOCAL}name: b, tier: large}}\n"
    text += f"  - {LOCAL}name: big, routable: false}}\n"
    path = write(f"routing: {{artifact: ./my-router}}\ndeployments:\n{text}")
    assert load_settings(path, {}).default_arm == "b"


def test_reference_arm_of_the_bundled_artifact_is_the_one_taken_unread(repository_root: Path) -> None:
    """The constant stands for what the bundled manifest says."""
    manifest = json.loads((repository_root / "onnx_models" / "default-router" / "manifest.json").read_bytes())
    assert manifest["reference_arm"] == DEFAULT_REFERENCE_ARM


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        (
            "{encoder: static}",
            "routing.encoder: there is no bundled encoder 'static' (did you mean 'static-minilm-256'?)",
        ),
        ("{encoder: minilm-l6-v2}", "routing.encoder: the artifact was fitted with static-minilm-256@"),
        ("{encoder: ./nowhere}", "routing.encoder: ./nowhere has no manifest.json"),
        (
            "{artifact: ./nowhere}",
            "routing.artifact: ./nowhere has no manifest.json (make one with: penstock-train fit --outcomes FILE "
            "--out ./nowhere)",
        ),
        ("{artifact: defualt}", "routing.artifact: there is no bundled artifact 'defualt' (did you mean 'default'?"),
        ("{artifact: ./damaged}", "routing.artifact: manifest.json and router.onnx in 'damaged' are damaged"),
        ("{artifact: ./broken}", "routing.artifact: manifest.json is not valid"),
    ],
)
def test_models_that_cannot_route_are_problems_only_where_asked(
    write: Write, tmp_path: Path, repository_root: Path, routing: str, expected: str
) -> None:
    """The check refuses what the gateway itself starts with, serving its default arm."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    shutil.copytree(repository_root / "onnx_models" / "default-router", tmp_path / "damaged")
    with (tmp_path / "damaged" / "router.onnx").open("ab") as graph:
        graph.write(b"x")
    path = write(f"routing: {routing}\n{ONE}")
    found = _problems(path, KEYS, must_route=True)
    assert len(found) == 1
    assert found[0].startswith(f"penstock.yaml:1: {expected}")
    settings = load_settings(path, KEYS)
    assert settings.default_arm == "gpt-5.4-mini"
    assert routing_obstacle(settings) in found[0].replace("./nowhere", str(tmp_path / "nowhere"))


def test_arm_that_the_artifact_does_not_have_is_a_problem_where_asked(write: Write) -> None:
    """A mistyped arm has its line and the nearest match."""
    found = _problems(write(ONE.replace("}", ", arm: mediun}")), KEYS, must_route=True)
    assert found == ["penstock.yaml:2: deployments[0].arm: the artifact has no arm 'mediun' (did you mean 'medium'?)"]


def test_mistakes_of_shape_hide_no_mistake_of_routing(write: Write) -> None:
    """Default arm, artifact and encoder are checked although other settings are wrong."""
    text = (
        "server: {prt: 1}\ndeployments:\n  - {name: 4, provider: openai, tier: small}\n"
        "  - {name: gpt-5.4-mini, provider: openai, tier: medium}\n"
        "routing: {default_arm: nope, artifact: ./nowhere, encoder: static}\n"
    )
    found = "\n".join(_problems(write(text), KEYS, must_route=True))
    for setting in ("server.prt", "deployments[0].name", "default_arm", "routing.artifact", "routing.encoder"):
        assert setting in found
    assert "entry-" not in found


@pytest.mark.parametrize("wrong", ["{name: x, provider: opanai}", "{name: 'a b', provider: openai}"])
def test_wrong_name_or_provider_is_the_only_problem_of_its_deployment(write: Write, wrong: str) -> None:
    """Price and key would be looked for under the wrong name, so nothing is said of them."""
    assert len(_problems(write(f"deployments:\n  - {wrong}\n"), {})) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("routing: {tradeoff: balnced}\n", "between 0 and 1, not 'balnced' (did you mean 'balanced'?)"),
        ("log: {level: loud}\n", "log.level: should be one of 'debug', 'info', 'warning' or 'error', not 'loud'"),
        ("client_keys: [{name: a, key: ${S}}]\n", "client_keys[0].key: should have at least 16 characters"),
    ],
)
def test_wording_of_a_problem_says_each_thing_once(write: Write, text: str, expected: str) -> None:
    """The choices stand once, the nearest match is named, and the mask eats no word of the message."""
    assert _problems(write(text + ONE), {**KEYS, "S": "short"})[0].endswith(expected)


def test_literal_secret_header_is_refused_with_a_hint_that_applies(write: Write) -> None:
    """A header has no key file."""
    found = _problems(write(ONE.replace("}", ", headers: {Authorization: abcdefgh}}")), KEYS)
    assert found[0].endswith("a secret should not stand in the file (write ${VARIABLE})")


def test_path_in_a_problem_is_the_one_that_was_given(write: Write) -> None:
    """Two files of one name in two folders can be told apart."""
    path = write("serve: 1\n" + ONE).absolute()
    assert _problems(path, KEYS)[0].startswith(f"{path}:1: ")


def test_one_guessed_limit_is_noted_in_the_singular(write: Write) -> None:
    """The note's grammar follows the count."""
    text = f"deployments:\n  - {LOCAL}name: a, tier: small, context_tokens: 1, abilities: [tools]}}\n"
    notes = str(note_settings(load_settings(write(text), {})))
    assert "max_output_tokens is a cautious guess" in notes
    assert "'set it'" in notes
