"""Text guards: what two prompts say, compared point by point, in plain Python and without a model.

One file per point. `signature_of` reads a prompt once; `compare` gives a verdict per guard on a pair. English first:
what a guard does not know in another language it leaves alone. Read `agreement` first.
"""

from penstock_cache.guards.agreement import GUARD_NAMES, VETO_GUARDS, GuardReport, compare
from penstock_cache.guards.signature import PromptSignature, signature_of
from penstock_cache.guards.verdicts import Verdict

__all__ = ["GUARD_NAMES", "VETO_GUARDS", "GuardReport", "PromptSignature", "Verdict", "compare", "signature_of"]
