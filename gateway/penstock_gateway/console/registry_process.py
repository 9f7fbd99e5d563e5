"""``penstock-train artifact`` as a process: what reads and changes a registry, without training code in the gateway.

Owns the bounds: one at a time, for so many seconds, so much output. Read `artifact_command`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import msgspec

from penstock_gateway.errors import Conflict, Overloaded

SECONDS: Final = 20.0
MAX_OUTPUT_BYTES: Final = 4 << 20
_PROGRAM: Final = (
    "import sys; from penstock_training.cli import main; main(args=sys.argv[1:], prog_name='penstock-train')"
)


async def artifact_json(*arguments: str) -> dict[str, Any]:
    """Run ``penstock-train artifact … --json`` and return what it says.

    Raises
    ------
    Conflict, Overloaded
        As `artifact_command`.
    """
    content = msgspec.json.decode(await artifact_command(*arguments, "--json"))
    return content if isinstance(content, dict) else {}


async def artifact_command(*arguments: str) -> str:
    """Run ``penstock-train artifact …`` and return what it writes.

    Parameters
    ----------
    *arguments : str
        The subcommand first. None of them comes from a form unchecked.

    Raises
    ------
    Conflict
        It was refused; with its own words.
    Overloaded
        It took too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        "artifact",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        raise Overloaded("The registry could not be read in time; try again shortly.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Conflict(_reason(out, err), code="registry_refused")
    return out[:MAX_OUTPUT_BYTES].decode("utf-8", "replace")


def _reason(out: bytes, err: bytes) -> str:
    """Return what a refused command says, as JSON or as its last line."""
    try:
        return str(msgspec.json.decode(out or err)["error"]["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        lines = (err or out).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else "The registry refused it."
