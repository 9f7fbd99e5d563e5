"""Keys, teams and tags: who asks, and what they may.

Read `principal.Principal` first; `directory` finds it for a presented key.
"""
