"""Scorers: how good was an answer? `protocol` is the contract, `registry.build_scorer` the way in."""
