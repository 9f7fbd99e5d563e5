"""The master key and what belongs to all keys: one client key of the new configuration, with its budget and limits.

Owns ``client_keys`` of the draft. Virtual keys lie in LiteLLM's database and are made anew. Read `map_master_key`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from penstock_gateway.importing.draft import Draft, number_of, whole_number_of
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.settings_types import MAX_LIMIT_USD

KEY_NAME: Final = "litellm-master"
KEY_VARIABLE: Final = "LITELLM_MASTER_KEY"
_LEAST_KEY: Final = 16
_ADMIN_STEP: Final = (
    "Make keys for your clients: add 'admin: {port: 4001, key: ${PENSTOCK_ADMIN_KEY}}' and 'accounts: {store: file, "
    "folder: ./accounts}', then 'penstock keys create NAME' (docs/keys.md). "
    "The old master key is an ordinary client key here."
)
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d|w|mo)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_PERIODS: Final = {3600: "hour", 86_400: "day", 604_800: "week"}
_MONTH: Final = range(28 * 86_400, 31 * 86_400 + 1)


def map_master_key(draft: Draft, node: Node) -> None:
    """Make the master key a client key, so that those who have it go on."""
    found = draft.references.secret(node, KEY_VARIABLE)
    if found is None:
        return
    reference, is_plain = found
    draft.sections["client_keys"] = {"name": KEY_NAME, "key": reference}
    note = "a client key; it does not administer the gateway"
    if is_plain:
        note += f". It stands in the old file; export it as {reference[2:-1]}"
        if len(str(node.value)) < _LEAST_KEY:
            note += f". It is shorter than {_LEAST_KEY} characters, which Penstock refuses: choose another"
            draft.step(f"Choose a master key of at least {_LEAST_KEY} characters and export it as {reference[2:-1]}.")
    draft.findings.changed(node, f"client_keys[{KEY_NAME}].key", note)
    draft.step(_ADMIN_STEP)


def map_budget(draft: Draft, node: Node) -> None:
    """Make ``max_budget`` in ``budget_duration`` a budget of the client key; either field settles its own half."""
    key = draft.sections.get("client_keys")
    if key is None:
        draft.findings.dropped(node, "a budget needs a key, a team or a tag that has it", "client_keys[].budgets")
        return
    if node.path.endswith(".max_budget"):
        _limit(draft, node, key)
    elif isinstance(budgets := key.get("budgets"), list):
        _period(draft, node, budgets[0])
    else:
        draft.findings.dropped(node, "there is no max_budget that it could belong to", "client_keys[].budgets")


def map_parallel_of_keys(draft: Draft, node: Node) -> None:
    """Write the limit of every key as that of the one that is there."""
    key = draft.sections.get("client_keys")
    count = whole_number_of(node, 1, 1_000_000_000)
    if key is None or count is None:
        draft.findings.dropped(node, "a limit needs a key that has it", "client_keys[].limits.parallel_requests")
        return
    key["limits"] = {"parallel_requests": count}
    note = "of this key; keys that are made later get their own: penstock keys create --parallel-requests"
    draft.findings.changed(node, f"client_keys[{KEY_NAME}].limits.parallel_requests", note)


def _limit(draft: Draft, node: Node, key: dict[str, object]) -> None:
    amount = number_of(node)
    if amount is None or not 0 < amount <= MAX_LIMIT_USD or amount != amount.quantize(Decimal("1e-12")):
        return
    key["budgets"] = [{"period": "total", "limit_usd": amount}]
    note = "of this key; LiteLLM's is of the whole proxy. Make a team for more keys with one budget"
    draft.findings.changed(node, f"client_keys[{KEY_NAME}].budgets", note)


def _period(draft: Draft, node: Node, budget: dict[str, object]) -> None:
    match = _DURATION.fullmatch(str(node.value))
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    period = "month" if seconds in _MONTH else _PERIODS.get(seconds)
    if period is None:
        note = "periods are an hour, a day, a week, a month or all time; this budget is for all time now"
        draft.findings.dropped(node, note, "client_keys[].budgets[].period")
        return
    budget["period"] = period
    note = f"a calendar {period} in ledger.timezone, not one from the first request on"
    draft.findings.changed(node, f"client_keys[{KEY_NAME}].budgets[].period", note)
