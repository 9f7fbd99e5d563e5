"""The ledger: who has spent what, what is held for requests under way, and who may spend more.

Knows scopes, windows and whole picodollars; nothing of HTTP, prices or providers. Read `contract.Ledger` first, then
`assembly.open_ledger`, which says what stands behind it: `memory.MemoryLedger`, or `fleet.FleetLedger` over
`redis_ledger.RedisLedger` and its scripts, with `upkeep` in the background. Charges come through
`settling.SettleQueue`.
"""
