"""The keyless demonstration: a simulated provider, prompts of our own, and a table of decisions.

Owns everything that ``penstock demo`` runs. Nothing outside this folder may import it, except the command line, the
benches and the examples. Read `run.demo` first.
"""
