"""The ``penstock-train`` command: its list of commands.

Every command is a file in `penstock_training.commands` that imports its work only when it runs, so that ``--help``
costs no scikit-learn and no torch. Read `COMMANDS`.
"""

from __future__ import annotations

from typing import Final

import click

from penstock_training.commands.artifact import artifact
from penstock_training.commands.cache_calibrate import cache_calibrate
from penstock_training.commands.check_outcomes import check_outcomes
from penstock_training.commands.collect import collect
from penstock_training.commands.cross_validate import cross_validate
from penstock_training.commands.evaluate import evaluate
from penstock_training.commands.evaluate_logged import evaluate_logged
from penstock_training.commands.export_encoder import export_encoder
from penstock_training.commands.fit import fit
from penstock_training.commands.import_outcomes import import_outcomes
from penstock_training.commands.judge_report import judge_report
from penstock_training.commands.onboard import onboard
from penstock_training.commands.predict import predict
from penstock_training.commands.publish import keygen, publish

COMMANDS: Final[tuple[click.Command, ...]] = (
    artifact,
    cache_calibrate,
    check_outcomes,
    collect,
    cross_validate,
    evaluate,
    evaluate_logged,
    export_encoder,
    fit,
    import_outcomes,
    judge_report,
    keygen,
    onboard,
    predict,
    publish,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Fit, measure and try out router artifacts."""


for _command in COMMANDS:
    main.add_command(_command)
