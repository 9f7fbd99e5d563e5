"""One format on both sides: what the gateway writes, in either form, is what the trainer reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.records import SCHEMA
from penstock_routers.policy import RouteReason
from penstock_training.collect.prompts import read_prompts
from penstock_training.importers.event_files import SCHEMAS
from penstock_training.importers.formats import import_outcomes
from penstock_training.importers.options import ImportOptions
from penstock_training.outcomes import load_outcomes
from support.event_samples import PRINCIPAL, SECRET_TEXT, log_in, note_one

OPTIONS = ImportOptions()


@pytest.fixture(params=["json", "parquet", "both", "mixed"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that a gateway wrote, with feedback: as it was written, compacted, half compacted, in two segments."""
    made = tmp_path / "log"
    first = log_in(made, capture_content=True)
    first.start()
    note_one(first, "dec_0")
    note_one(first, "dec_1", chosen="gpt")  # answered by `mini`: a fallback
    note_one(first, "dec_2", reason=RouteReason.PHYSICAL_MODEL)
    first.stop()
    if request.param == "mixed":
        compact(made)
    second = log_in(made, capture_content=True)
    second.start()
    note_one(second, "dec_3", principal=replace(PRINCIPAL, tenant="hospital-south"))
    for number in range(4):
        second.put_feedback("hospital-north", f"dec_{number}", score=number / 4)
    second.put_feedback("hospital-north", "dec_0", label="only a label")
    second.stop()
    if request.param in ("parquet", "both"):
        shutil.copytree(made, tmp_path / "copy")
        compact(made)
    if request.param == "both":  # a compaction that was killed before it deleted the JSON
        for path in (tmp_path / "copy").glob("*.jsonl"):
            shutil.copy(path, made)
    return made


def test_schema_of_the_gateway_is_one_that_the_trainer_reads() -> None:
    """A new schema has to be taught to the trainer first."""
    assert SCHEMA in SCHEMAS


def test_events_of_the_gateway_become_outcomes_in_every_form(folder: Path, tmp_path: Path) -> None:
    """Choice, propensity, tokens, cost, category, tenant and score arrive; the rest is left out by name."""
    out = tmp_path / "out.jsonl"
    report = import_outcomes("events", [folder], out, options=OPTIONS)
    assert (report.rows, report.left_out) == (2, {"fallback": 1, "client_choice": 1})
    table = load_outcomes([out])
    matrix = table.matrix()
    assert matrix.arms == ("mini",)
    assert matrix.prompts == [SECRET_TEXT] * 2
    assert table.number["propensity"].tolist() == [0.005, 0.005]
    assert (table.number["input_tokens"].tolist(), table.number["output_tokens"].tolist()) == ([12.0] * 2, [34.0] * 2)
    assert table.number["cost_usd"].tolist() == pytest.approx([0.00018] * 2)
    assert matrix.categories == ["medical"] * 2
    assert sorted(table.number["score"].tolist()) == [0.0, 0.75]
    tenants = {event["tenant"] for event in read_events(folder, types={"decision"})}
    assert matrix.tenants is not None
    assert set(matrix.tenants) == tenants
    assert len(tenants) == 2


def test_prompts_of_the_gateways_events_can_be_collected_again(folder: Path) -> None:
    """Captured events are prompts for `penstock-train collect`; outcomes and feedback among them are no problem."""
    found = read_prompts(sorted([*folder.glob("*.parquet"), *folder.glob("*.jsonl")]))
    assert [entry.prompt for entry in found.prompts] == [SECRET_TEXT]
    assert {problem.kind for problem in found.problems} == {"duplicate_question"}


def test_tenant_of_events_is_the_pseudonym_and_no_name(folder: Path) -> None:
    """No name of a tenant gets into an outcome file."""
    assert isinstance(PRINCIPAL, Principal)
    content = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert PRINCIPAL.tenant.encode() not in content
