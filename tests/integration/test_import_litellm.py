"""From LiteLLM's configuration to a gateway that answers: the real command line, a provider on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.chat_upstream import ChatUpstream, running_chat_upstream
from support.learning_traffic import call, eventually, process

FIXTURE = Path(__file__).resolve().parents[1] / "support" / "litellm_config.yaml"
PENSTOCK = [sys.executable, "-m", "penstock_gateway"]
READY = r"base URL http://127.0.0.1:(\d+)/v1"
KEY = "sk-master-key-of-24-chars"
VARIABLES = (
    "ANTHROPIC_API_KEY AZURE_API_KEY_EAST AZURE_API_KEY_WEST CACHE_REDIS_PASSWORD CLAUDE_SONNET_X_ACME_TOKEN "
    "GEMINI_API_KEY GPT_4O_MINI_API_KEY GROQ_API_KEY LLAMA_LOCAL_API_KEY MISTRAL_API_KEY OPENAI_API_KEY "
    "PERPLEXITYAI_API_KEY"
)


@pytest.fixture
def upstream() -> Iterator[ChatUpstream]:
    """A provider that answers with the prompt's last word."""
    with running_chat_upstream() as server:
        yield server


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PENSTOCK, *arguments],
        cwd=folder,
        env={**environment, "PATH": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_configuration_of_litellm_is_imported_checked_served_and_answers(
    tmp_path: Path, upstream: ChatUpstream, redis_url: str
) -> None:
    """A configuration of more than a hundred lines starts after an import, and its clients go on with its names."""
    redis_port = urlsplit(redis_url).port
    text = FIXTURE.read_text(encoding="utf-8").replace("http://vllm.internal:8000/v1", upstream.base_url)
    # No Redis of ours has a password: the URL without one is what a user of such a Redis would have.
    text = text.replace("    password: os.environ/CACHE_REDIS_PASSWORD\n", "")
    text = text.replace("  redis_password: os.environ/REDIS_PASSWORD\n", "")
    text = text.replace("host: cache.internal\n    port: 6379", f"host: 127.0.0.1\n    port: {redis_port}")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    imported = run(tmp_path, "import", "litellm", "config.yaml", "--out", "penstock.yaml")
    assert imported.returncode == 0, imported.stderr
    assert "not mapped: " in imported.stdout

    unset = run(tmp_path, "check-config", "penstock.yaml")
    assert unset.returncode == 1
    assert "environment variable LITELLM_MASTER_KEY is not set" in unset.stdout

    environment = {name: f"value-of-{name}" for name in VARIABLES.split()} | {
        "AZURE_API_BASE_WEST": "https://west.example.org",
        "LITELLM_MASTER_KEY": KEY,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_port),
    }
    checked = run(tmp_path, "check-config", "penstock.yaml", **environment)
    assert checked.returncode == 0, checked.stdout

    serve = [*PENSTOCK, "serve", "--config", "penstock.yaml", "--port", "0"]
    with process(serve, tmp_path, READY, **environment) as (_, port):
        eventually(lambda: True if _is_ready(port) else None)
        assert call(port, "/v1/models")[0].status == 401
        response, models = call(port, "/v1/models", key=KEY)
        assert response.status == 200
        names = {model["id"] for model in models["data"]}
        assert {"gpt-4o/azure", "gpt-4o-mini", "claude-sonnet", "llama-local", "embed-small", "openai/gpt-4o"} <= names
        body = {"model": "llama-local", "messages": [{"role": "user", "content": "say hello"}]}
        response, answer = call(port, "/v1/chat/completions", body, key=KEY)
        assert response.status == 200, answer
        assert answer["choices"][0]["message"]["content"] == "hello"
    model, _, headers = upstream.seen[0]
    assert model == "meta-llama/Llama-3.3-70B-Instruct"
    assert headers["Authorization"] == "Bearer value-of-LLAMA_LOCAL_API_KEY"


def _is_ready(port: str) -> bool:
    try:
        return call(port, "/readyz")[0].status == 200
    except ConnectionRefusedError:
        return False
