"""Rules of how the code reads, checked by reading it: sizes, names, imports, errors, docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "penstock_gateway": ROOT / "gateway",
    "penstock_routers": ROOT / "routers",
    "penstock_cache": ROOT / "cache",
    "penstock_training": ROOT / "training",
}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_DOCSTRING_LINES = 3

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def _sources() -> list[Path]:
    return sorted(path for name, folder in PACKAGES.items() for path in (folder / name).rglob("*.py"))


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def _other_scripts() -> list[Path]:
    return sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.fixture(scope="module", autouse=True)
def _trees_are_given_up() -> Iterator[None]:
    """Millions of nodes would make every later garbage collection of the worker slow."""
    yield
    _tree.cache_clear()


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    package = next(folder for folder in PACKAGES.values() if path.is_relative_to(folder))
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _functions(tree: ast.AST) -> Iterator[FunctionNode]:
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


@cache
def _imported_modules(path: Path) -> frozenset[str]:
    """Every module that a file's imports name, ``a.b.c`` for ``from a.b import c`` too."""
    named: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return frozenset(named)


def _without_docstring(node: FunctionNode) -> int:
    """Lines of a function from ``def`` to its end, its docstring not counted."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def test_sources_of_every_package_are_found() -> None:
    """The rules below look at all four packages, so none of them passes because nothing was read."""
    assert {_module(path).split(".")[0] for path in _sources()} == set(PACKAGES)
    assert len(_test_files()) > len(PACKAGES)


def test_python_file_of_any_kind_has_at_most_500_lines() -> None:
    """A file that grows past 500 lines holds a second idea."""
    lengths = {
        _name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*_sources(), *_test_files(), *_other_scripts()]
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_function_of_a_package_has_at_most_60_lines() -> None:
    """A function that grows past 60 lines, its docstring not counted, holds a second idea."""
    too_long = [
        f"{_name(path)}:{node.lineno} {node.name} ({_without_docstring(node)} lines)"
        for path in [*_sources(), *_other_scripts()]
        for node in _functions(_tree(path))
        if _without_docstring(node) > MAX_FUNCTION_LINES
    ]
    assert not too_long, "\n".join(too_long)


def test_modules_of_all_packages_form_no_import_cycle() -> None:
    """No module of ours imports itself by a detour, imports inside functions included."""
    known = {_module(path) for path in _sources()}
    graph: dict[str, set[str]] = {}
    for path in _sources():
        graph[_module(path)] = (_imported_modules(path) & known) - {_module(path)}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")
    assert set(order) == known


def test_module_of_a_package_says_what_it_owns() -> None:
    """Every module opens with a docstring."""
    silent = [_name(path) for path in [*_sources(), *_other_scripts()] if not ast.get_docstring(_tree(path))]
    assert not silent, "\n".join(silent)


def _undocumented(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                yield f"{prefix}{child.name}"
            yield from _undocumented(child, f"{prefix}{child.name}.")
        elif isinstance(child, FunctionNode) and not child.name.startswith("_"):
            decorators = {ast.unparse(decorator).split(".")[-1] for decorator in child.decorator_list}
            if not ast.get_docstring(child) and not decorators & {"overload", "override", "setter"}:
                yield f"{prefix}{child.name}"


def test_public_name_of_a_package_has_a_docstring() -> None:
    """Every public class, function and method says what it is for."""
    missing = [f"{_name(path)}: {name}" for path in _sources() for name in _undocumented(_tree(path), "")]
    assert not missing, "\n".join(missing)


def test_file_and_class_names_avoid_words_without_meaning() -> None:
    """No file or class is called utils, helpers, common or manager: such names say nothing."""
    words = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)(_|$)", re.IGNORECASE)
    camel = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
    files = [_name(path) for path in [*_sources(), *_test_files()] if words.search(path.stem)]
    classes = [
        f"{_name(path)}: {node.name}"
        for path in _sources()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef) and words.search(camel.sub("_", node.name))
    ]
    assert files + classes == []


@pytest.mark.parametrize(
    "heavy", ["litellm", "onnxruntime", "redis", "faiss", "sentence_transformers", "model2vec", "cryptography"]
)
@pytest.mark.parametrize("package", PACKAGES)
def test_heavy_dependency_of_a_package_has_one_owner_file(package: str, heavy: str) -> None:
    """A heavy dependency is imported in one file of each package at most, so that replacing it touches one file."""
    owners = {
        _name(path)
        for path in _sources()
        for module in _imported_modules(path)
        if module.split(".")[0] == heavy and _module(path).split(".")[0] == package
    }
    assert len(owners) <= 1, owners


def test_source_of_a_package_never_unpickles_or_evaluates() -> None:
    """Only ONNX, JSON, YAML, Parquet and safetensors are loaded: nothing that can run code from a file."""
    forbidden_modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    forbidden_calls = {"eval", "exec", "compile", "__import__"}
    found = []
    for path in _sources():
        found += [f"{_name(path)}: {name}" for name in sorted(_imported_modules(path) & forbidden_modules)]
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in forbidden_calls:
                found.append(f"{_name(path)}:{node.lineno} {node.func.id}()")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{_name(path)}:{node.value.lineno} allow_pickle")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"yaml.load", "yaml.unsafe_load"}:
                found.append(f"{_name(path)}:{node.lineno} {ast.unparse(node)}")
    assert not found, "\n".join(found)


def test_broad_exception_handler_never_passes_in_silence() -> None:
    """``except Exception`` stands at an edge: its body raises, logs, counts, or hands the error on."""
    silent = [
        f"{_name(path)}:{node.lineno}"
        for path in _sources()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _raises_or_reports(node)
    ]
    assert not silent, "\n".join(silent)


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = "BaseException" if node.type is None else ast.unparse(node.type)
    return bool(re.search(r"\b(Base)?Exception\b", caught))


def _raises_or_reports(node: ast.ExceptHandler) -> bool:
    reporting = re.compile(r"\b(log\w*|print|echo|inc|exception|error|warning|critical|count\w*|record\w*|report\w*)$")
    for inner in (inner for statement in node.body for inner in ast.walk(statement)):
        if isinstance(inner, ast.Raise) or (isinstance(inner, ast.Name) and inner.id == node.name):
            return True
        if isinstance(inner, ast.Call) and reporting.search(ast.unparse(inner.func)):
            return True
    return False


def test_source_of_any_kind_leaves_no_note_to_self() -> None:
    """What is unfinished is an issue, not a comment."""
    note = re.compile(r"#.*\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    found = [
        f"{_name(path)}:{number}"
        for path in [*_sources(), *_test_files(), *_other_scripts()]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if note.search(line)
    ]
    assert not found, "\n".join(found)


def _test_functions() -> Iterator[tuple[Path, FunctionNode]]:
    for path in _test_files():
        for node in _functions(_tree(path)):
            if node.name.startswith("test"):
                yield path, node


def test_test_function_of_any_folder_is_named_subject_situation_expectation() -> None:
    """A test's name has a subject, a situation and an expectation, at least a word each."""
    pattern = re.compile(r"test(_[a-z0-9]+){3,}")
    badly_named = [
        f"{_name(path)}: {node.name}" for path, node in _test_functions() if not pattern.fullmatch(node.name)
    ]
    assert not badly_named, "\n".join(badly_named)


def test_test_function_of_any_folder_states_its_rule_in_a_docstring() -> None:
    """A test's docstring states the rule that it checks, in a sentence."""
    wrong = []
    for path, node in _test_functions():
        docstring = ast.get_docstring(node) or ""
        if not docstring.endswith(".") or len(docstring.splitlines()) > MAX_DOCSTRING_LINES:
            wrong.append(f"{_name(path)}:{node.lineno} {node.name}")
    assert not wrong, "\n".join(wrong)


def test_test_file_names_of_all_folders_are_unique() -> None:
    """Test files need no packages around them, so no two of them have one name."""
    names = [path.name for path in _test_files()]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "--no-cache", "--output-format=concise", "."], id="lint"),
        pytest.param(["ruff", "format", "--no-cache", "--check", "."], id="format"),
        pytest.param(["lint-imports", "--no-cache"], id="imports"),
        pytest.param(["python", "scripts/check_docs.py"], id="docs"),
    ],
)
def test_repository_under_each_quick_check_has_no_finding(command: list[str]) -> None:
    """What `make check` asks of lint, format, import directions and docs holds."""
    executable = Path(sys.executable).parent / command[0]
    result = subprocess.run([str(executable), *command[1:]], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(300)  # reads every stub of every dependency when its cache is empty
def test_repository_under_the_type_checker_has_no_finding() -> None:
    """All four packages pass the type checker in strict mode."""
    command = [sys.executable, "-m", "mypy"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
