"""Writes ``constraints.txt``: one exact version of everything any extra can bring, for every supported platform.

Resolves with pip itself, once per Python and set of extras that may be installed together, merges the answers, and
then asks pip whether each pinned version has a wheel on each supported platform. It downloads metadata only. Read
`main` first. Run it as ``make pins`` (it needs pip and the interpreters named on the command line, nothing of ours).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# `cpu` and `gpu` exclude each other, so they are resolved apart; their common packages must agree.
EXTRA_SETS = (
    "cpu,litellm,redis,training,console,ray-node,dev,clients",
    "gpu,litellm,redis,training,console,ray-node,dev,clients",
)
BUILD_TOOLS = ("hatchling", "editables")

# Held below the newest release, each for a reason.
HELD = {
    "torch": "2.13.0",  # newest release with a CPU-only build for Linux wherever we could look
}

# What the plain torch build for Linux brings for NVIDIA GPUs; whoever wants it takes the versions torch asks for.
UNPINNED = re.compile(r"^(penstock|triton|nvidia-.*|cuda-.*)$")

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_GLIBC_MINORS = (5, 12, 17, 24, 26, 27, 28)
PLATFORMS = {
    "linux x86-64": [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC_MINORS] + ["manylinux2014_x86_64"],
    "linux aarch64": [f"manylinux_2_{minor}_aarch64" for minor in _GLIBC_MINORS] + ["manylinux2014_aarch64"],
    "macos arm64": [f"macosx_{major}_0_{kind}" for major in range(11, 15) for kind in ("arm64", "universal2")],
}
# Optional on purpose: these extras are offered where their makers build them.
MAY_LACK_WHEELS = {"faiss-gpu", "onnxruntime-gpu", "ray"}

HEADER = """\
# Exact versions of everything that `pip install penstock[...]` can bring, for any extra, on Linux (x86-64, aarch64)
# and macOS (arm64), Python 3.11 to 3.14. Written by `make pins`; do not edit.
#
# torch: on Linux its plain build needs several gigabytes of NVIDIA libraries. The CPU-only build has the same version
# number with the suffix `+cpu`, which satisfies the pin below; pip takes it when the index or folder of torch's CPU
# wheels is configured (`pip config set global.extra-index-url ...` or `PIP_FIND_LINKS=...`; torch's own installation
# page has the address). On macOS the plain build is the CPU build.
"""


def main() -> int:
    """Resolve, write and verify; returns 1 when a pin has no wheel on a supported platform."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreters", nargs="+", help="Python executables to resolve with, oldest version first")
    parser.add_argument("--output", type=Path, default=ROOT / "constraints.txt")
    arguments = parser.parse_args()

    # Each answer binds the next question, so that one version serves every Python and every set of extras.
    pins = dict(HELD)
    for interpreter in arguments.interpreters:
        for extras in EXTRA_SETS:
            pins.update(_resolve(interpreter, extras, pins))
            print(f"resolved [{extras}] with {interpreter}: {len(pins)} pins so far", file=sys.stderr)
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    arguments.output.write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    missing = list(_missing_wheels(arguments.interpreters[-1], pins))
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


def _resolve(interpreter: str, extras: str, known: Mapping[str, str]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        bound = Path(folder, "bound.txt")
        bound.write_text("".join(f"{name}=={version}\n" for name, version in known.items()), encoding="utf-8")
        report = Path(folder, "report.json")
        command = [interpreter, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--constraint", str(bound), "--report", str(report), f"{ROOT}[{extras}]", *BUILD_TOOLS]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"pip could not resolve [{extras}] with {interpreter}:\n{result.stderr[-3000:]}")
        packages = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    pins = {_canonical(item["name"]): item["version"].split("+")[0] for item in packages}
    return {name: pin for name, pin in pins.items() if not UNPINNED.match(name)}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _missing_wheels(interpreter: str, pins: Mapping[str, str]) -> Iterable[str]:
    """Yield a sentence for each pin that has no wheel on a supported platform."""
    for python in PYTHONS:
        for platform, tags in PLATFORMS.items():
            wanted = [f"{name}=={version}" for name, version in pins.items() if name not in MAY_LACK_WHEELS]
            while absent := _first_without_wheel(interpreter, wanted, python, tags):
                yield f"no wheel for {absent} on {platform}, Python {python}"
                wanted.remove(absent)
            print(f"checked {len(wanted)} pins on {platform}, Python {python}", file=sys.stderr)


def _first_without_wheel(interpreter: str, pins: list[str], python: str, tags: list[str]) -> str | None:
    command = [interpreter, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--only-binary", ":all:"]
    command += ["--target", "unused", "--python-version", python, "--implementation", "cp"]
    command += [f"--platform={tag}" for tag in tags]
    result = subprocess.run([*command, *pins], check=False, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    absent = re.search(r"No matching distribution found for (\S+==\S+)", result.stderr)
    if absent is None:
        raise SystemExit(f"pip failed: {result.stderr[-2000:]}")
    return absent[1]


if __name__ == "__main__":
    sys.exit(main())
