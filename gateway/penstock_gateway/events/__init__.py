"""The event log: what happened, for bills, reports and the fitting of routers.

Read `log.EventLog` first for writing, `reading.read_events` for reading.
"""
