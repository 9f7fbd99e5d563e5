"""From a file, the environment and the command line to one plain tree that knows where each value came from.

Owns the YAML dialect (a bounded subset: no tags, no merge keys, duplicate keys refused, numbers with a point kept
exact), references to environment variables, and the ``PENSTOCK__…`` overlay. It knows nothing about what the
settings mean, except which ones are secret. Read `read_source` first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import yaml

from penstock_gateway.configuration_problems import Problem, setting_path

ENVIRONMENT_PREFIX = "PENSTOCK__"
MAX_FILE_BYTES = 262_144
"""A configuration with 1,000 fully written deployments is about 200 kB."""
MAX_NODES = 50_000
MAX_DEPTH = 32

SettingKey = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
# A bare ${NAME} inside [ ] or { } is not YAML. Its braces are hidden from the parser behind two private-use characters
# and put back in every scalar; lengths stay the same, so columns in messages stay right.
_WRITTEN_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHOW_BRACES = str.maketrans({"\ue000": "{", "\ue001": "}"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHER_REFERENCE = "os.environ/"
_KEY_FILES = {
    "client_keys": "key_file",
    "deployments": "api_key_file",
    "admin": "key_file",
    "accounts": "pepper_file",
}
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)


@dataclass(slots=True)
class SettingsSource:
    """A configuration before validation.

    Attributes
    ----------
    tree : dict
        Plain mappings, lists, text, int, bool, None, and Decimal for numbers with a point.
    name : str
        The file's path as it was given, for messages, or ``"environment"`` without a file.
    folder : Path
        Relative paths in the configuration start here.
    places : dict of SettingKey to str
        Where each value was written.
    unresolved : set of SettingKey
        Values that name a variable which is not set; already reported.
    problems : list of Problem
    muted : set of SettingKey
        Settings that are already known to be wrong; nothing more is said about them or what lies around them.
    referring : set of SettingKey
        Values that came from a variable; they are not shown.
    hidden : set of str
        Credentials met on the way; should one turn up in a message (a key in the place of a name), it is blotted out.
    written : dict of SettingKey to str
        Paths as they were written, before they were resolved.
    """

    name: str
    folder: Path
    tree: dict[str, object] = field(default_factory=dict)
    places: dict[SettingKey, str] = field(default_factory=dict)
    unresolved: set[SettingKey] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    muted: set[SettingKey] = field(default_factory=set)
    referring: set[SettingKey] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    written: dict[SettingKey, str] = field(default_factory=dict)

    def place(self, key: SettingKey) -> str:
        """Return where a setting, or the nearest thing around it, was written."""
        for length in range(len(key), 0, -1):
            found = self.places.get(key[:length])
            if found is not None:
                return found
        return self.name

    def hide(self, secret: str) -> None:
        """Keep a credential out of every message; shorter than four characters it would blot out plain words."""
        if len(secret) >= 4:
            self.hidden.add(secret)

    def report(self, key: SettingKey, message: str, hint: str = "") -> None:
        """Add a problem at a setting, unless the setting is muted."""
        if any(key[: len(other)] == other[: len(key)] for other in self.muted):
            return
        for secret in self.hidden:
            message, hint = message.replace(secret, "…"), hint.replace(secret, "…")
        self.problems.append(Problem(self.place(key), setting_path(key), message, hint))


def is_secret(key: SettingKey) -> bool:
    """Say whether the value of a setting is a credential, which must come by reference and is never shown."""
    if not key or not isinstance(key[-1], str):
        return False
    if len(key) >= 2 and key[-2] == "headers":
        return _SECRET_NAME.search(key[-1]) is not None
    return key[-1] in ("key", "api_key", "redis_url", "pepper", "pseudonym_key") or key in (
        ("redis", "url"),
        ("encoder", "secret"),
    )


def read_source(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, tuple[SettingKey, str]] | None = None
) -> SettingsSource:
    """Read a configuration file and lay the environment and the command line over it.

    Parameters
    ----------
    path : Path or None
        The file; None for the environment alone.
    environ : mapping of str to str
        Variables: those that start with ``PENSTOCK__`` are settings, all may be referred to.
    overrides : mapping of str to (SettingKey, str), optional
        Command-line options: option name → setting and text.

    Returns
    -------
    SettingsSource
        With all problems met on the way.
    """
    source = SettingsSource(str(path) if path else "environment", path.parent.resolve() if path else Path.cwd())
    if path is not None:
        _read_file(source, path, environ)
    for variable in sorted(environ):
        if variable.startswith(ENVIRONMENT_PREFIX):
            parts = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            key: SettingKey = tuple(int(part) if part.isdecimal() else part for part in parts)
            _overlay(source, variable, key, environ[variable])
    for option, (key, text) in (overrides or {}).items():
        _overlay(source, option, key, text)
    return source


def _read_file(source: SettingsSource, path: Path, environ: Mapping[str, str]) -> None:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        source.problems.append(Problem(str(path), "", f"cannot be read: {error.strerror or 'unknown error'}"))
        return
    except UnicodeDecodeError as error:
        source.problems.append(Problem(source.name, "", f"is not UTF-8 text (byte {error.start})"))
        return
    if len(content) > MAX_FILE_BYTES:
        source.problems.append(Problem(source.name, "", f"is larger than {MAX_FILE_BYTES} bytes"))
        return
    reader = _TreeReader(source, environ, source.name)
    tree = reader.read(_WRITTEN_REFERENCE.sub("$\ue000\\1\ue001", text), ())
    if tree is None and not source.problems:
        return
    if isinstance(tree, dict):
        source.tree = tree
    elif not source.problems:
        source.problems.append(Problem(f"{source.name}:1", "", "should be a mapping of settings, such as 'version: 1'"))


def _overlay(source: SettingsSource, label: str, key: SettingKey, text: str) -> None:
    """Put one value from a variable or an option into the tree."""
    value: object = text
    if is_secret(key):
        source.hide(text)
    else:
        before = len(source.problems)
        value = _TreeReader(source, None, label).read(text, key)
        if len(source.problems) > before:
            return
    container: object = source.tree
    for depth, part in enumerate(key):
        is_last = depth == len(key) - 1
        following: object = value if is_last else [] if isinstance(key[depth + 1], int) else {}
        container = _step(container, part, following, is_last)
        if container is None and not is_last:
            hint = "number the entries of a list from 0, without gaps"
            source.problems.append(Problem(label, setting_path(key), "does not fit what is there", hint))
            return
    for known in [other for other in source.places if other[: len(key)] == key]:
        del source.places[known]
    source.places[key] = label


def _step(container: object, part: str | int, following: object, is_last: bool) -> object | None:
    """Go one step down, making what is missing; None when the step does not fit."""
    if isinstance(container, dict) and isinstance(part, str):
        if is_last or container.get(part) is None:
            container[part] = following
        found: object = container[part]
        return found
    if isinstance(container, list) and isinstance(part, int) and part <= len(container):
        if part == len(container):
            container.append(following)
        elif is_last:
            container[part] = following
        found = container[part]
        return found
    return None


class _TreeReader:
    """Reads one YAML document into plain values, noting places and resolving references."""

    def __init__(self, source: SettingsSource, environ: Mapping[str, str] | None, label: str) -> None:
        self._source = source
        self._environ = environ  # None: a value that itself comes from a variable refers to no other
        self._label = label
        self._node_count = 0
        self._is_too_large = False

    def read(self, text: str, key: SettingKey) -> object:
        try:
            self._refuse_bombs(text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = self._label if mark is None else f"{self._where(mark.line)}:{mark.column + 1}"
            self._source.problems.append(Problem(where, setting_path(key), f"not valid YAML: {error.problem}"))
            return None
        except (yaml.YAMLError, _TooLargeError) as error:
            message = str(error).splitlines()[0] if str(error) else "not valid YAML"
            self._source.problems.append(Problem(self._label, setting_path(key), message))
            return None
        return None if node is None else self._value(node, key)

    def _refuse_bombs(self, text: str) -> None:
        """Bound depth and size before anything recursive looks at the text."""
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _TooLargeError(f"nested deeper than {MAX_DEPTH} levels")
            if count > MAX_NODES:
                raise _TooLargeError(f"has more than {MAX_NODES} values")

    def _where(self, line: int) -> str:
        return self._label if self._environ is None else f"{self._label}:{line + 1}"

    def _value(self, node: yaml.Node, key: SettingKey) -> object:
        self._node_count += 1
        if self._node_count > MAX_NODES or len(key) > MAX_DEPTH:  # aliases make the tree outgrow the text
            if not self._is_too_large:
                self._source.report(key[:4], "is too large or too deep once aliases are expanded")
            self._is_too_large = True
            return None
        self._source.places.setdefault(key, self._where(node.start_mark.line))
        if node.tag not in _KNOWN_TAGS:
            self._source.report(key, f"YAML tags such as {node.tag!r} are not supported")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, key) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, key: SettingKey) -> dict[str, object]:
        values: dict[str, object] = {}
        for name_node, value_node in node.value:
            where = self._where(name_node.start_mark.line)
            if not isinstance(name_node, yaml.ScalarNode):
                self._source.problems.append(Problem(where, setting_path(key), "a key should be plain text"))
                continue
            name = str(name_node.value).translate(_SHOW_BRACES)
            if name == "<<":
                message = "merge keys ('<<') are not supported; write the settings out"
                self._source.problems.append(Problem(where, setting_path(key), message))
            elif name in values:
                message = "is given twice"
                self._source.problems.append(Problem(where, setting_path((*key, name)), message))
            else:
                self._source.places[(*key, name)] = where
                values[name] = self._value(value_node, (*key, name))
        return values

    def _scalar(self, node: yaml.ScalarNode, key: SettingKey) -> object:
        text = str(node.value).translate(_SHOW_BRACES)
        is_plain = node.style is None
        if self._environ is None:
            return plain_value(text) if is_plain else text
        return self._resolved(text, is_plain, key)

    def _resolved(self, text: str, is_plain: bool, key: SettingKey) -> object:
        """Replace references; a literal secret is refused."""
        assert self._environ is not None
        names = _REFERENCE.findall(text)
        if text.startswith(_OTHER_REFERENCE):
            names, text = [text.removeprefix(_OTHER_REFERENCE)], "${" + text.removeprefix(_OTHER_REFERENCE) + "}"
        if not names:
            is_redis = key[-1:] == ("redis_url",) or key == ("redis", "url")
            is_open = is_redis and "@" not in text  # an address without a password
            if is_secret(key) and text and not is_open and not (is_plain and plain_value(text) is None):
                file = _KEY_FILES.get(str(key[0]))
                file = file if key[-1] in ("key", "api_key", "pepper") and "headers" not in key else None
                hint = f"write ${{VARIABLE}}, or name a file with {file}" if file else "write ${VARIABLE}"
                self._source.report(key, "a secret should not stand in the file", hint)
                self._source.unresolved.add(key)
                self._source.hide(text)
                return None
            return plain_value(text) if is_plain else text
        for name in names:
            self._check_reference(name, key)
        if key in self._source.unresolved:
            return None
        self._source.referring.add(key)
        is_whole = _REFERENCE.fullmatch(text) is not None
        text = _REFERENCE.sub(lambda match: self._environ[match[1]] if self._environ else "", text)
        return plain_value(text) if is_plain and is_whole and not is_secret(key) else text

    def _check_reference(self, name: str, key: SettingKey) -> None:
        assert self._environ is not None
        if not _VARIABLE.fullmatch(name):
            self._source.report(key, "a reference should be ${VARIABLE}, letters, digits and _ only")
        elif not self._environ.get(name):
            state = "is empty" if name in self._environ else "is not set"
            self._source.report(key, f"environment variable {name} {state}", f"export {name}=…")
        else:
            if _SECRET_NAME.search(name) or is_secret(key):
                self._source.hide(self._environ[name])
            return
        self._source.unresolved.add(key)


class _TooLargeError(Exception):
    """The text is too deep or too long to be a configuration."""


_KNOWN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)


def plain_value(text: str) -> object:
    """Return what unquoted text means: ``true``/``false``, ``null``, an integer, an exact decimal, or the text.

    Only these five, unlike YAML 1.1, where ``no`` is false and ``12:30`` is 750.

    Examples
    --------
    >>> plain_value("0.10"), plain_value("4000"), plain_value("no")
    (Decimal('0.10'), 4000, 'no')
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text) and len(text) <= 20:
        return int(text)
    if _NUMBER.fullmatch(text) and len(text) <= 40:
        return Decimal(text)
    return text


def path_below(folder: Path, text: str) -> Path:
    """Return a path from the configuration; relative ones start at the configuration's folder."""
    return folder / Path(text).expanduser()


def entries(source: SettingsSource, name: str) -> Sequence[dict[str, object]]:
    """Return the mappings of a list setting, for what happens before validation."""
    value = source.tree.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
