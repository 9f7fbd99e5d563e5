"""Taking over the configuration of another gateway: what was mapped, what changed its meaning, what was left out.

Owns `conversion.import_litellm`, the one door; the rest of the package is behind it. Nothing here serves requests.
"""
