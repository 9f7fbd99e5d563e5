"""Where the work of a training run is done: in this process, or by the workers of a Ray cluster.

Owns the seam between what is computed and where. Must not know what is computed. Read `protocol.Engine`.
"""
