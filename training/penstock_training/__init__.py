"""From outcomes to router artifacts: load, split, fit, calibrate, evaluate, export; and the export of encoders.

Stands on ``penstock_routers`` and never on the gateway. Read `penstock_training.fit` first.
"""
