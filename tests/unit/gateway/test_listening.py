"""Addresses that are taken before the server runs."""

from __future__ import annotations

from penstock_gateway.listening import SPREADS_CONNECTIONS, bound_socket, held_address, port_problem


def test_held_address_keeps_another_gateway_out_before_any_worker_listens_and_lets_workers_in() -> None:
    """Two gateways would otherwise share a port, and each have half of the other's clients."""
    with held_address("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        if SPREADS_CONNECTIONS:
            bound_socket("127.0.0.1", port, is_shared=True).close()
        assert "cannot be bound" in (port_problem("127.0.0.1", port) or "")
    assert port_problem("127.0.0.1", port) is None
