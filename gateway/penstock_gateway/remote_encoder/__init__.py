"""An encoder in a process of its own: `penstock encode-server`, and the gateway's client for it.

Reading order: `wire` (what is said), `server`, `connection`, `service` (deadline, breaker, what answers instead).
"""
