"""How often a useless candidate is promoted when one hold-out is asked again and again.

Answers whether the gate keeps its promise (at most 5 % over all tries) and what simpler gates would do. Candidates are
made up: none is better than what is running, so that every promotion is wrong. Run it as
``python bench/reusable_holdout.py [--quick] [--json]``. Read `simulate`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_training.publishing.gate import GateSettings, is_better, mean_interval
from penstock_training.publishing.ledger import MINIMUM_ERROR_RATE, error_rate
from penstock_training.publishing.paired import PairedPoint, PairedPolicies

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe_machine

PROMPTS = 1000
TRIES = 200
DIFFERENT_SHARE = 0.3  # of prompts on which candidate and running policy differ
RANDOM_TRIES = 12
Floats = NDArray[np.float64]
Gate = Callable[[Floats, int], bool]


def main() -> int:
    """Run the simulation and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 hold-outs instead of 500")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    holdouts = 20 if arguments.quick else 500
    found = simulate(holdouts, arguments.seed)
    document = {
        "machine": describe_machine(("penstock", "numpy")),
        "holdouts": holdouts,
        "prompts": PROMPTS,
        "tries": TRIES,
        "seed": arguments.seed,
        "wrongly_promoted": found,
    }
    if arguments.json:
        print(json.dumps(document, indent=1))
        return 0
    print(f"{holdouts} hold-outs of {PROMPTS} prompts, {TRIES} useless candidates each; share with a wrong promotion")
    for name, shares in found.items():
        print(f"  {name:<44}{100 * shares['independent']:6.1f} %  {100 * shares['adaptive']:6.1f} %")
    print(f"  {'':<44}{'random':>8}  {'adaptive':>8}")
    return 0


def simulate(holdouts: int, seed: int) -> dict[str, dict[str, float]]:
    """Count hold-outs on which a gate promotes something useless.

    Parameters
    ----------
    holdouts : int
    seed : int

    Returns
    -------
    dict of str to dict of str to float
        Per gate the share of hold-outs with at least one wrong promotion: with ``independent`` candidates, and with an
        ``adaptive`` author who, after every 12 random ones, puts together what did well where the gate showed numbers.

    Notes
    -----
    A candidate answers a random 30 % of the prompts with another arm that is as good on average: the difference of the
    scores there is -1, 0 or 1 with chances ¼, ½, ¼, fixed per prompt, as the two arms' scores are.
    """
    gates: dict[str, tuple[Gate, bool]] = {
        "each try at 95 %, numbers shown": (_at_95_percent, True),
        "error rate spent over tries, numbers shown": (_spending, True),
        "the same, and used up after 13 tries": (_spending_within_bounds, True),
        "ours: the same, and the verdict only": (_spending_within_bounds, False),
    }
    found = {}
    for name, (gate, shows) in gates.items():
        wrong = {"independent": 0, "adaptive": 0}
        for number in range(holdouts):
            for kind in wrong:
                generator = np.random.default_rng((seed, number))
                wrong[kind] += _is_fooled(generator, gate, is_adaptive=kind == "adaptive", shows=shows)
        found[name] = {kind: count / holdouts for kind, count in wrong.items()}
    return found


def _is_fooled(generator: np.random.Generator, gate: Gate, *, is_adaptive: bool, shows: bool) -> bool:
    arms_differ = generator.choice([-1.0, 0.0, 1.0], size=PROMPTS, p=[0.25, 0.5, 0.25])
    votes = np.zeros(PROMPTS)
    for tries in range(TRIES):
        is_attack = is_adaptive and tries % (RANDOM_TRIES + 1) == RANDOM_TRIES
        if is_attack:  # numbers tell which random choices did well; without them all count alike
            switched = votes >= np.quantile(votes, 1.0 - DIFFERENT_SHARE)
        else:
            switched = generator.random(PROMPTS) < DIFFERENT_SHARE
        difference = np.where(switched, arms_differ, 0.0)
        if gate(difference, tries):
            return True
        if not is_attack:
            votes += (switched - DIFFERENT_SHARE) * (difference.mean() if shows else 1.0)
    return False


def _at_95_percent(difference: Floats, tries: int) -> bool:
    return mean_interval(difference, np.arange(PROMPTS), 0.025).low > 0.0


def _spending(difference: Floats, tries: int) -> bool:
    nothing = np.zeros(PROMPTS)
    point = PairedPoint("balanced", difference, difference, nothing, difference != 0.0, nothing)
    pairs = PairedPolicies(np.arange(PROMPTS), {"balanced": point}, np.zeros(PROMPTS, dtype=bool), 0, ())
    return is_better(pairs, GateSettings(), error_rate(tries, 0))


def _spending_within_bounds(difference: Floats, tries: int) -> bool:
    return error_rate(tries, 0) >= MINIMUM_ERROR_RATE and _spending(difference, tries)


if __name__ == "__main__":
    sys.exit(main())
