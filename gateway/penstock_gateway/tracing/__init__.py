"""Traces of requests for OpenTelemetry: `context` for the headers, `spans` for what is said, `export` for sending."""
