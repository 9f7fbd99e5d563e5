"""``docs/errors.md`` lists every code that the gateway can show, with its status, and every fault of the matrix."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from penstock_gateway import errors
from penstock_gateway.accounts.table import KeyRefusal
from penstock_gateway.errors import GatewayError
from support.fault_expectations import EXPECTED, documented_rows
from support.faults import FAULTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "errors.md"
SOURCES = ROOT / "gateway" / "penstock_gateway"
OTHERS = (ROOT / "cache" / "penstock_cache", ROOT / "routers" / "penstock_routers")
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, GatewayError) and kind is not GatewayError
}


@dataclass(frozen=True)
class Raised:
    """A code as it stands in the source; `pattern` where a part of it is filled in."""

    maker: str
    pattern: str
    place: str


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the gateway, without the demonstration's provider, which shows errors of its own."""
    for path in sorted(SOURCES.rglob("*.py")):
        if "demo" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


@cache
def raised() -> list[Raised]:
    """Return every code that a call names, be it by a function of the same module that takes it."""
    found = []
    for place, tree in trees():
        makers = dict(makers_of(tree))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            maker = ast.unparse(node.func).split(".")[-1]
            values = [k.value for k in node.keywords if k.arg and (k.arg == "code" or k.arg.endswith("_code"))]
            if maker in makers:
                maker, position = makers[maker]
                values += node.args[position : position + 1]
            found += [Raised(maker, pattern, place) for value in values for pattern in patterns_of(value)]
    return found


def makers_of(tree: ast.Module) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the functions that take a code and make an error of it: its class, and the code's place in a call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and "code" in names and ast.unparse(call.func) in CLASSES:
                yield node.name, (ast.unparse(call.func), names.index("code"))


def patterns_of(value: ast.expr) -> Iterator[str]:
    """Yield the codes in an expression, as regular expressions."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield re.escape(value.value)
    elif isinstance(value, ast.JoinedStr):
        parts = (re.escape(str(p.value)) if isinstance(p, ast.Constant) else "[a-z]+" for p in value.values)
        yield "".join(parts)
    elif isinstance(value, ast.IfExp):
        yield from patterns_of(value.body)
        yield from patterns_of(value.orelse)


def documented() -> dict[str, list[list[str]]]:
    """Return the cells of every row whose first cell is a code, by code."""
    rows: dict[str, list[list[str]]] = {}
    text = PAGE.read_text(encoding="utf-8").partition("## Faults of providers")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[0].endswith("`"):
            rows.setdefault(cells[0].strip("`"), []).append(cells)
    return rows


def test_page_lists_the_default_code_of_every_error_with_its_status_and_type() -> None:
    """Each class of errors has a row with what it sends."""
    rows = documented()
    wanted = {kind.default_code: [str(kind.status), f"`{kind.type}`"] for kind in CLASSES.values()}
    assert {code: [row[1:3] for row in rows.get(code, [])] for code in wanted} == {
        code: [sent] for code, sent in wanted.items()
    }


def test_page_lists_every_code_of_the_gateway_with_the_status_of_its_error() -> None:
    """A code that some call names has a row, and where that call makes an error, with that error's status and type."""
    rows, missing = documented(), []
    assert len(raised()) > 50
    for code in raised():
        matching = [row for name, found in rows.items() if re.fullmatch(code.pattern, name) for row in found]
        kind = CLASSES.get(code.maker)
        if kind is not None:
            matching = [row for row in matching if row[1:3] == [str(kind.status), f"`{kind.type}`"]]
        if not matching:
            missing.append(f"{code.place}: {code.maker} {code.pattern}")
    assert missing == []


def test_page_lists_every_reason_to_refuse_a_key() -> None:
    """Codes that stand in an enumeration are listed too."""
    rows = documented()
    assert [refusal.value for refusal in KeyRefusal if rows.get(refusal.value, [["", ""]])[0][1] != "401"] == []


def test_page_lists_no_code_that_nothing_names() -> None:
    """A code that was renamed or has gone is no longer documented."""
    paths = [path for folder in (SOURCES, *OTHERS) for path in folder.rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    built = [code.pattern for code in raised() if "[a-z]+" in code.pattern]
    unknown = [
        code
        for code in documented()
        if f'"{code}"' not in text and not any(re.fullmatch(pattern, code) for pattern in built)
    ]
    assert unknown == []


def test_matrix_of_faults_has_an_expectation_for_each() -> None:
    """Every fault that the upstream can show has its expectation in each kind of request, and none is left over."""
    assert list(EXPECTED) == [fault.name for fault in FAULTS]
    missing = [(fault.name, mode) for fault in FAULTS for mode in fault.modes if mode not in EXPECTED[fault.name]]
    assert missing == []


def test_page_lists_every_fault_of_the_matrix_as_it_is_tested() -> None:
    """The table of faults is the matrix's, row by row; a failure shows the rows to write."""
    shown = PAGE.read_text(encoding="utf-8").partition("## Faults of providers")[2].partition("\n## ")[0]
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert rows == documented_rows()


@pytest.mark.parametrize("column", [-1])
def test_page_names_tests_of_faults_around_the_gateway_that_exist(column: int) -> None:
    """Every fault around the gateway names the file that tests it."""
    shown = PAGE.read_text(encoding="utf-8").partition("## Faults around the gateway")[2]
    rows = [line.strip("|").split("|") for line in shown.splitlines() if line.startswith("| ")]
    named = [row[column].strip().strip("`") for row in rows[2:]]
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []
