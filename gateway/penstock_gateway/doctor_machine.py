"""What the machine gives: a GPU, ports, file descriptors, disk.

Owns the machine's part of ``penstock doctor``; it opens no connection and writes nothing. Read `look_at_gpu`,
`port_holder`, `look_at_descriptors` and `look_at_folders`.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from penstock_gateway.findings import Finding, Level
from penstock_gateway.settings_deployments import model_folder
from penstock_gateway.settings_models import RoutingSettings, Settings
from penstock_routers.encoder import PromptEncoder
from penstock_routers.errors import RouterError
from penstock_routers.installation import install_command

_SPARE_DESCRIPTORS: Final = 256
"""For files, Redis, listeners, and connections that wait to be used again."""
_LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp, proc_pid_net(5)
_LEAST_FREE_BYTES: Final = 1 << 30


def look_at_gpu(
    routing: RoutingSettings,
    version_of: Callable[[str], str | None],
    *,
    drivers: Path = Path("/proc/driver/nvidia/version"),
) -> tuple[Finding, ...]:
    """Say where the encoder runs, and why not where it was to.

    Parameters
    ----------
    routing : RoutingSettings
    version_of : callable
        Distribution name → version or None.
    drivers : Path
        Where NVIDIA's driver tells its version.
    """
    has_build, has_driver = version_of("onnxruntime-gpu") is not None, drivers.exists()
    if routing.device == "cpu" or not (has_build or has_driver or routing.device == "cuda"):
        return (Finding("ok", "gpu", "not used: the encoder runs on the CPU"),)
    if has_build and not has_driver:
        fix = "install the driver, give the container the GPU, or use the extra cpu"
        return (Finding(_by_wish(routing), "gpu", "the GPU build is installed, and there is no NVIDIA driver", fix),)
    if not has_build:
        detail = (
            "routing.device is cuda, and the CPU build is installed"
            if routing.device == "cuda"
            else ("there is a GPU, and the CPU build is installed, so it is not used")
        )
        return (Finding("fail" if routing.device == "cuda" else "ok", "gpu", detail, install_command("gpu")),)
    try:
        encoder = PromptEncoder.load(model_folder(routing.encoder), device=routing.device)
    except RouterError as error:
        return (Finding("fail", "gpu", f"the encoder does not load: {error.message}", "see the line on routing"),)
    if encoder.device == "cuda":
        return (Finding("ok", "gpu", "the encoder runs on it"),)
    if encoder.fallback_reason is None:
        return (Finding("ok", "gpu", "there is one, and this encoder is quicker on the CPU"),)
    fix = "compare the driver's CUDA version with that of onnxruntime-gpu"
    return (Finding(_by_wish(routing), "gpu", f"not used: {encoder.fallback_reason}", fix),)


def _by_wish(routing: RoutingSettings) -> Level:
    return "fail" if routing.device == "cuda" else "warn"


def port_holder(port: int, *, proc: Path = Path("/proc")) -> str | None:
    """Return who listens on a port, as ``name (pid N)``; None when that cannot be seen.

    Parameters
    ----------
    port : int
    proc : Path
        Linux's process file system. Processes of other users can be seen by the superuser alone.
    """
    inodes = {f"socket:[{inode}]" for inode in _listeners(port, proc)}
    if not inodes:
        return None
    for folder in proc.glob("[0-9]*"):
        try:
            held = any(os.readlink(link) in inodes for link in (folder / "fd").iterdir())
            if held:
                return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return None


def _listeners(port: int, proc: Path) -> Iterator[str]:
    """Yield the inodes of sockets that listen on a port."""
    for name in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if len(fields) > 9 and fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def look_at_descriptors(settings: Settings, *, limit: int | None = None) -> tuple[Finding, ...]:
    """Compare the limit of open files with what the configured load needs.

    Parameters
    ----------
    settings : Settings
    limit : int, optional
        Default: this process's own.

    Notes
    -----
    Each request under way holds its client's connection and its provider's.
    """
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = 2 * settings.server.max_in_flight + _SPARE_DESCRIPTORS
    if limit in (-1, resource.RLIM_INFINITY):
        return (Finding("ok", "open files", "not limited"),)
    if limit >= needed:
        return (Finding("ok", "open files", f"{limit:,} allowed, {needed:,} needed at most"),)
    detail = f"{limit:,} allowed, and server.max_in_flight {settings.server.max_in_flight:,} may need {needed:,}"
    fix = f"ulimit -n {needed} before the start (LimitNOFILE= in systemd), or lower server.max_in_flight"
    return (Finding("warn", "open files", detail, fix),)


def look_at_folders(settings: Settings) -> tuple[Finding, ...]:
    """Say whether what is kept on disk can be written, and has room."""
    wanted: list[tuple[str, str, int]] = []
    if settings.events.folder is not None:
        wanted.append(("events.folder", settings.events.folder, settings.events.max_bytes))
    if settings.accounts.store == "file" and settings.accounts.folder is not None:
        wanted.append(("accounts.folder", settings.accounts.folder, 0))
    if settings.cache.mode != "off" and settings.cache.store.kind == "file" and settings.cache.store.folder is not None:
        wanted.append(("cache.store.folder", settings.cache.store.folder, 0))
    return tuple(_folder(name, Path(folder), most) for name, folder, most in wanted)


def _folder(name: str, folder: Path, most: int) -> Finding:
    existing = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    if not existing.is_dir():
        return Finding("fail", name, f"{existing} is not a folder", f"move it away, or change {name}")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("fail", name, f"{existing} may not be written by this user", f"chown it to uid {os.getuid()}")
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return Finding("fail", name, f"{existing} is on a read-only file system", "mount a volume there")
    free = shutil.disk_usage(existing).free
    needed = max(_LEAST_FREE_BYTES, most)
    if free < needed:
        detail = f"{folder}: {_size(free)} free, and {_size(needed)} may be needed"
        return Finding("warn", name, detail, "free space, or lower events.max_bytes")
    return Finding("ok", name, f"{folder}: can be written, {_size(free)} free")


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
