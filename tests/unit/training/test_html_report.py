"""The page: nothing unescaped, nothing fetched, well formed, complete; and the same run as text and as JSON."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from penstock_training.comparison import PairedDifference
from penstock_training.errors import TrainingError
from penstock_training.evaluation_run import EvaluationRun
from penstock_training.html_parts import escape
from penstock_training.html_report import render_page, write_page
from penstock_training.intervals import Interval
from penstock_training.run_text import render_run
from penstock_training.svg_charts import nice_ticks
from penstock_training.verdicts import router_verdicts, run_verdicts
from support.evaluation_runs import made_up_run

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>\x1b[31m"
VOID = {"meta", "br", "img", "hr", "input", "link"}


class _Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that elements close in the order in which they open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@cache
def _run(prefix: str = "") -> EvaluationRun:
    return made_up_run(prefix)


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_page_of_hostile_names_holds_no_foreign_element() -> None:
    """Names of arms, artifacts, categories, sources, files and machines are text, wherever they appear."""
    plain, hostile = _read(render_page(_run())), _read(render_page(_run(HOSTILE)))
    allowed = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in hostile.tags} == allowed
    assert not {"script", "img", "iframe", "object", "link", "form"} & allowed
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    # Labels that find no room in a picture are left out, and long names need more.
    counts = [sum(tag != "text" for tag, _ in reader.tags) for reader in (plain, hostile)]
    assert counts[0] == counts[1]
    text = "".join(hostile.text)
    assert "<script>alert(1)</script>" in text
    assert "\x1b" not in render_page(_run(HOSTILE))


def test_page_refers_to_nothing_outside_itself() -> None:
    """No address, no source, no font, no script: the page works from a disk without a network."""
    page = render_page(_run())
    reader = _read(page)
    references = [a[name] for _, a in reader.tags for name in ("href", "src", "xlink:href", "action") if name in a]
    assert references
    assert all(reference is not None and reference[0] == "#" for reference in references)
    assert {reference[1:] for reference in references if reference} <= set(reader.ids)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page)
    policies = [a["content"] for tag, a in reader.tags if tag == "meta" and "Content-Security-Policy" in a.values()]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]


def test_page_holds_every_chapter_with_units_and_intervals() -> None:
    """Curve, calibration, decisions, wins and losses, robustness, kinds, learning curve, control and comparison."""
    text = "".join(_read(render_page(_run())).text)
    for words in (
        "Quality over cost",
        "The whole curve",
        "Is it no worse than the default arm?",
        "Arms and calibration",
        "Who answers what",
        "Where it wins and loses",
        "Does other wording change its mind?",
        "Kinds of prompts",
        "Category head",
        "Latency",
        "Cross-validation",
        "Shuffled-label control",
        "Learning curve: ridge",
        "p (Holm)",
        "95 % intervals",
        "USD per 1,000 requests",
        "µs",
    ):
        assert words in text, words


def test_page_pictures_are_labelled_and_stay_inside_their_frame() -> None:
    """Every picture says what it shows, and no dot, line or text has a place that is not a number or outside."""
    page = render_page(_run())
    pictures = re.findall(
        r'<svg [^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*role="img"[^>]*aria-label="[^"]+"[^>]*>(.*?)</svg>', page
    )
    assert len(pictures) >= 2 * (1 + 3) + 1  # a curve and three arms per router, and a learning curve
    assert "nan" not in page
    for width, height, content in pictures:
        for name, limit in (("x1", width), ("x2", width), ("cx", width), ("y1", height), ("cy", height)):
            values = [float(value) for value in re.findall(rf'\b{name}="(-?[\d.]+)"', content)]
            assert all(0 <= value <= float(limit) for value in values)


def test_page_same_run_gives_the_same_text() -> None:
    """Nothing in the page depends on the clock."""
    assert render_page(made_up_run()) == render_page(_run())


def test_write_page_replaces_a_file_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The page replaces an older one in one step, and no temporary file stays."""
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    write_page(_run(), path)
    assert path.read_text(encoding="utf-8") == render_page(_run())
    assert os.listdir(tmp_path) == ["report.html"]


def test_write_page_into_no_folder_is_refused_with_a_code(tmp_path: Path) -> None:
    """A folder that is not there is the user's mistake and named as such."""
    with pytest.raises(TrainingError) as refused:
        write_page(_run(), tmp_path / "nowhere" / "report.html")
    assert refused.value.code == "page_not_writable"


def test_escape_makes_quotes_tags_and_control_characters_harmless() -> None:
    """What stands in a text or an attribute can neither end it nor move a cursor."""
    assert escape("a\"b'c<d>&\x1b\u202e") == "a&quot;b&#x27;c&lt;d&gt;&amp;\ufffd\ufffd"


def test_render_run_fits_eighty_columns_and_says_what_is_shown() -> None:
    """Two artifacts are shown one after the other, then compared, with no control character and no long line."""
    text = render_run(_run())
    assert max(len(line) for line in text.splitlines()) <= 80
    shown = text + render_run(_run(HOSTILE))
    assert all(character == "\n" or character.isprintable() for character in shown)
    for words in (
        "good\n====",
        "shuffled\n====",
        "good minus shuffled",
        "QNC",
        "CPT",
        "95 % lower bound",
        "All in all",
    ):
        assert words in text


def test_run_json_is_complete_and_strict() -> None:
    """Every part is there, and any parser reads it."""
    found = json.loads(json.dumps(_run().to_json(), allow_nan=False))
    assert found["format"] == 1
    assert [artifact["name"] for artifact in found["artifacts"]] == ["good", "shuffled"]
    first = found["artifacts"][0]
    parts = {"name", "artifact_id", "family", "seen_sources", "report", "robustness", "probes", "confusion"}
    assert set(first) == parts
    assert first["report"]["points"][0]["non_inferiority"]["sentence"]
    assert {"quality_at_10", "cost_at_95", "path_over_constants"} <= set(first["report"]["summary"])
    assert found["comparison"]["differences"][0]["adjusted_p_value"] <= 1
    assert found["control"]["is_passed"] in (True, False)
    assert found["learning_curves"]["ridge"]["points"]
    assert found["cross_validation"]["ridge"]["folds"][0]["cost_weights"]


def test_verdicts_of_a_set_that_was_fitted_on_begin_with_a_warning() -> None:
    """Prompts of a set that the artifact names as fitted on may have been seen, and that is said first."""
    section = replace(_run().routers[0], seen_sources=("first",))
    verdict = router_verdicts(_run(), section)[0]
    assert verdict.tone == "bad"
    assert "fitted on a set named first" in verdict.answer


@pytest.mark.parametrize(("low", "high", "tone"), [(0.01, 0.03, "good"), (-0.01, 0.03, "open"), (-0.03, -0.01, "bad")])
def test_verdict_on_the_whole_knob_follows_the_unselected_curve(low: float, high: float, tone: str) -> None:
    """A guarded curve that is surely below mixtures of fixed arms is said to be so, with what to do about it."""
    section = _run().routers[0]
    summary = replace(section.report.summary, path_over_constants=Interval((low + high) / 2, low, high))
    changed = replace(section, report=replace(section.report, summary=summary))
    verdict = next(v for v in router_verdicts(_run(), changed) if "whole knob" in v.question)
    assert verdict.tone == tone


def test_verdicts_of_good_and_shuffled_routers_differ_in_tone() -> None:
    """The router that knows is praised for what it knows, its shuffled copy is not."""
    run = _run()
    good, shuffled = (router_verdicts(run, section) for section in run.routers)
    assert good[0].tone == "good"
    assert "0.5 is chance" in good[0].answer
    assert shuffled[0].tone != "good"
    sure = PairedDifference("good", "shuffled", "area", Interval(0.05, 0.02, 0.08), 0.01, 0.01)
    unsure = replace(sure, adjusted_p_value=0.2)
    for difference, words, tone in ((sure, "good, over all budgets", "good"), (unsure, "cannot be told apart", "open")):
        comparison = replace(run.comparison, differences=(difference,))
        verdict = run_verdicts(replace(run, comparison=comparison))[0]
        assert words in verdict.answer
        assert verdict.tone == tone


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.37, 0.91), (-0.004, 0.013), (12.0, 9000.0)])
def test_nice_ticks_lie_within_the_range_and_are_few(low: float, high: float) -> None:
    """Axes have three to eight round ticks, none outside."""
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert low - 1e-9 <= ticks[0] < ticks[-1] <= high + 1e-9
