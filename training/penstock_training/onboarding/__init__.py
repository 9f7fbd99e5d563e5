"""Adding an arm to an artifact from a few dozen scored prompts, without training outcomes."""
