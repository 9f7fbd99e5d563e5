"""Logged outcomes: what a policy would have scored, from a log that shows only the arms that were chosen.

Read `penstock_training.bandit.logged` first (what a log is), then `estimators` (the arithmetic), `support` (when it is
refused) and `evaluation` (how they are put together). For fitting from a log see `weights`.
"""
