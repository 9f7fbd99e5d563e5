"""LLM routing: encoders, features, router artifacts, estimates and policies.

Knows no HTTP and imports nothing of the other packages. Read `penstock_routers.policy` first, then `artifact`.
"""
