"""Money: usage, prices, costs and the bundled price snapshot.

Read `prices.cost_usd` first.
"""
