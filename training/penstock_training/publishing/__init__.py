"""Publishing artifacts: the registry, the promotion gate with its reusable hold-out, signatures, and their texts."""
