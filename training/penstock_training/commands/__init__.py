"""One file a command of ``penstock-train``; each imports what it needs when it runs."""
