"""The answer cache: this package will own keys, eligibility, the decision rule, the index, the stores and eviction.

Nothing of it is built yet, and no request is answered from a cache. The package exists so that its import directions
are fixed from the start: it imports nothing of ours, sees vectors and strings, and never an embedding model.
"""
