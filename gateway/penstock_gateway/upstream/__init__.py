"""Speaking to providers: one contract (`protocol`), one transport per file.

Read `protocol.Upstream` first. `direct` speaks to OpenAI-compatible servers; `litellm_adapter` to all others, and
is imported only when a deployment needs it.
"""
