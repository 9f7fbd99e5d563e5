"""What one of several workers may take of what the configuration allows in all.

Pure. Read `settings_of_worker`.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock_gateway.settings_models import Settings


def share_of(amount: int, index: int, count: int) -> int:
    """Return a worker's part of an amount; all parts together are the amount, or `count` when that is more.

    Parameters
    ----------
    amount : int
    index : int
        Of the worker, from 0.
    count : int
        Of workers.

    Examples
    --------
    >>> [share_of(10, index, 4) for index in range(4)]
    [3, 3, 2, 2]
    """
    return max(1, amount // count + (index < amount % count))


def shares_encoder(settings: Settings, has_gpu_build: Callable[[], bool]) -> bool:
    """Say whether one process encodes for all workers.

    Parameters
    ----------
    settings : Settings
        As configured.
    has_gpu_build : callable
        Whether the installed ONNX Runtime can use a GPU.
    """
    encoder, routing = settings.encoder, settings.routing
    if settings.server.workers == 1 or encoder.remote is not None or routing.artifact == "none":
        return False
    if encoder.in_workers != "auto":
        return encoder.in_workers == "shared"
    return routing.device == "cuda" or (routing.device == "auto" and has_gpu_build())


def encoder_address(folder: str) -> str:
    """Return where the process listens that encodes for all workers."""
    return f"unix:{folder}/encoder.sock"


def settings_of_worker(settings: Settings, index: int, encoder: str | None = None) -> Settings:
    """Return the settings that one of ``server.workers`` processes lives by.

    Parameters
    ----------
    settings : Settings
        As configured.
    index : int
        Of the worker, from 0.
    encoder : str, optional
        Address of the process that encodes for all.

    Returns
    -------
    Settings
        Limits that each process keeps by itself are its share. The first one alone has the admin API and watches the
        configuration's files; the others are told by it.
    """
    count = settings.server.workers
    if count == 1:
        return settings

    def share(amount: int) -> int:
        return share_of(amount, index, count)

    server, attempts, cache, ledger = settings.server, settings.attempts, settings.cache, settings.ledger
    drain = attempts.drain.model_copy(update={"max_answers": _share_or_none(attempts.drain.max_answers, index, count)})
    is_first = index == 0
    changes = {
        "server": server.model_copy(
            update={
                "max_in_flight": share(server.max_in_flight),
                "reload_on_change": server.reload_on_change and is_first,
            }
        ),
        "attempts": attempts.model_copy(
            update={"max_waiting": _share_or_none(attempts.max_waiting, index, count), "drain": drain}
        ),
        "deployments": tuple(
            entry
            if entry.max_parallel_requests is None
            else entry.model_copy(update={"max_parallel_requests": share(entry.max_parallel_requests)})
            for entry in settings.deployments
        ),
        "events": settings.events.model_copy(
            update={
                "max_waiting": share(settings.events.max_waiting),
                "feedback_per_minute": share(settings.events.feedback_per_minute),
            }
        ),
        "ledger": ledger.model_copy(update={"expected_replicas": min(1000, ledger.expected_replicas * count)}),
        "encoder": settings.encoder if encoder is None else settings.encoder.model_copy(update={"remote": encoder}),
        "admin": settings.admin if is_first else settings.admin.model_copy(update={"port": None}),
        "cache": cache.model_copy(
            update={
                "max_bytes": cache.max_bytes if cache.store.kind == "redis" else share(cache.max_bytes),
                "audit": cache.audit.model_copy(update={"max_usd_per_day": _part_of_audits(settings, count)}),
                "load": cache.load.model_copy(
                    update={"max_in_flight": {name: share(most) for name, most in cache.load.max_in_flight.items()}}
                ),
            }
        ),
    }
    return settings.model_copy(update=changes)


def _share_or_none(amount: int, index: int, count: int) -> int:
    """Return the share of an amount that may be nothing at all."""
    return 0 if amount == 0 else share_of(amount, index, count)


def _part_of_audits(settings: Settings, count: int) -> float:
    """Return what a worker may spend on audits a day: all together no more than is allowed.

    Where the store is Redis the account of audits is shared already.
    """
    most = settings.cache.audit.max_usd_per_day
    return most if settings.cache.store.kind == "redis" else most / count
