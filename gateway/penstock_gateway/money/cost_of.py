"""What attempts come to: the cost of one, the total of a request's, and the usage where the provider said nothing.

Owns the rules for costs that are not known: an unknown price makes an unknown cost, never 0, and an estimate of usage
or price makes an estimated one. Read `attempt_cost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.money.prices import Price, cost_usd
from penstock_gateway.money.usage import Usage
from penstock_routers.token_counts import estimate_tokens

_NOTHING = Decimal(0)


class CostTotal(msgspec.Struct, frozen=True, gc=False):
    """What the attempts of one request come to.

    Attributes
    ----------
    cost_usd : Decimal or None
        Of all of them; None when the price of one that worked is not known.
    known_usd : Decimal
        Of those whose price is known.
    is_estimated : bool
        Whether some usage or some price is an estimate.
    is_incomplete : bool
        Whether the price of something is not known: of all that an attempt did, or of a tool that the provider ran.
    """

    cost_usd: Decimal | None
    known_usd: Decimal
    is_estimated: bool
    is_incomplete: bool = False


def usage_cost(usage: Usage, price: Price) -> Decimal | None:
    """Return the exact cost of a usage, USD; None when the price is not known."""
    return None if price.is_unknown else cost_usd(usage, price)


def attempt_cost(record: AttemptRecord, price: Price) -> Decimal | None:
    """Return what the provider bills for one attempt.

    Parameters
    ----------
    record : AttemptRecord
    price : Price
        Of the record's deployment.

    Returns
    -------
    Decimal or None
        USD, exact. 0 when the provider has done nothing (`AttemptRecord.usage` is None); None when it has, and the
        price is not known.
    """
    return _NOTHING if record.usage is None else usage_cost(record.usage, price)


def total_cost(
    records: Iterable[AttemptRecord], price_of: Callable[[str], Price], costs: Iterable[Decimal | None]
) -> CostTotal:
    """Return what the attempts of a request come to, failed ones included.

    Parameters
    ----------
    records : iterable of AttemptRecord
    price_of : callable
        From the name of a deployment to its price.
    costs : iterable of Decimal or None
        `attempt_cost` of each.

    Returns
    -------
    CostTotal
    """
    known, has_unknown, is_estimated, is_incomplete = _NOTHING, False, False, False
    for record, cost in zip(records, costs, strict=True):
        if record.usage is None:
            continue
        if cost is None:
            has_unknown = True
            continue
        known += cost
        price = price_of(record.deployment)
        is_estimated = is_estimated or is_cost_estimated(record.usage, price)
        is_incomplete = is_incomplete or has_unpriced_tools(record.usage, price)
    return CostTotal(None if has_unknown else known, known, is_estimated, has_unknown or is_incomplete)


def is_cost_estimated(usage: Usage, price: Price) -> bool:
    """Whether a cost is to be marked.

    The provider reported no usage, the price is that of models like it, or a tool that the provider ran has none.
    """
    return usage.is_estimated or price.is_estimate or has_unpriced_tools(usage, price)


def has_unpriced_tools(usage: Usage, price: Price) -> bool:
    """Whether the provider ran tools that it bills beside the tokens, and nobody knows at what price."""
    return usage.other_tool_calls > 0 or (usage.web_searches > 0 and price.web_search is None)


def may_be_budgeted(price: Price) -> bool:
    """Whether requests at this price may be charged to a budget: a cost that nobody knows cannot be kept within one."""
    return not price.is_unknown


def estimated_usage(input_tokens: int, output_tokens: int) -> Usage:
    """Return a usage that the provider did not report.

    Parameters
    ----------
    input_tokens, output_tokens : int
        By `token_counts.estimate_tokens`; the error of it is measured in ``bench/usage_estimates.py``.

    Returns
    -------
    Usage
        Marked; all of the prompt is taken for neither cached nor written.
    """
    return Usage(input_tokens=max(0, input_tokens), output_tokens=max(0, output_tokens), is_estimated=True)


def usage_of_cut_stream(reported: Usage | None, input_tokens: int, output_bytes: int) -> Usage:
    """Return the usage of a stream that ended before its end, because somebody left or something broke.

    Parameters
    ----------
    reported : Usage or None
        The last usage seen. Of providers that send running totals it is at most a chunk behind; others send the
        prompt's count with the first chunk, and 0 or 1 for a completion that has not begun.
    input_tokens : int
        Estimate of the prompt, where nothing is reported.
    output_bytes : int
        Bytes of generated text that arrived.

    Returns
    -------
    Usage
        The reported one, unless its completion is less than half of the estimate of what arrived (more than the
        estimate is wrong): then it is from before the answer, and the estimate takes its place, marked.
    """
    arrived = estimate_tokens(output_bytes)
    if reported is None:
        return estimated_usage(input_tokens, arrived)
    if arrived <= 2 * reported.output_tokens:
        return reported
    return replace(reported, output_tokens=arrived, is_estimated=True)
