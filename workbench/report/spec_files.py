"""Specs as files: YAML in, with the line and the field of whatever is wrong; YAML and schema out.

1. The events of PyYAML's parser become a tree in which every value knows its line and column.
   What YAML can do besides holding values is refused on the way: anchors and aliases, tags, several
   documents, keys given twice, nesting without end.
2. Scalars are read as YAML 1.2 has them (true, false, null, numbers, text). Words and numbers that
   older readers take for something else (`yes`, `010`) are refused, as nobody could say which of
   the two was meant.
3. The tree is checked against `AuditSpec`, strictly: a number in quotes is text. What was expected
   comes from the JSON schema, so that no sentence about a field is written twice.
4. What needs no model is checked too: tasks, sites, units, concepts of bundled models, files.
5. `commented` writes every field with its meaning, out of the same schema and docstrings.

Limits: whether a model has the neuron or the answer tokens that are asked for is seen only when it
is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from workbench.report import spec as specs
from workbench.report.spec import AuditSpec

LARGEST = 1_000_000
DEEPEST = 20
# Problems that are told at once.
_MOST_TOLD = 20
_LONGEST_SHOWN = 60
_MOST_NAMES = 12
_LINE = 96
# Fields of a threshold, which is written on one line.
_THRESHOLD = {"pass": 0, "warn": 0}

_Path = tuple[str | int, ...]
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# Numbers of one reader of YAML and texts, or other numbers, of the next one.
_UNCLEAR_NUMBER = re.compile(r"[-+]?(0[0-9_.]+|0x[0-9a-fA-F_]+|0o[0-7]+|0b[01]+|[0-9]+_[0-9_.]*)")
_UNCLEAR_WORD = re.compile(r"(?i)yes|no|on|off")
_NOT_FINITE = re.compile(r"(?i)[-+]?\.?inf(inity)?|\.?nan")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_LONGEST_INTEGER = 18
# A concept of such a name is a file of labelled inputs.
_FILES_OF_CONCEPTS = (".csv", ".json", ".jsonl")


class SpecError(ValueError):
    """A spec cannot be used; one sentence a problem says where and what was expected.

    Attributes:
        problems: The sentences, in the order of their lines.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        told = self.problems[:_MOST_TOLD]
        more = len(self.problems) - len(told)
        super().__init__("\n".join([*told, *([f"and {more} more"] if more else [])]))


def read(path: Path) -> AuditSpec:
    """Read a spec file.

    Args:
        path: YAML, UTF-8, at most 1 MB. Files that it names are looked for beside it.

    Returns:
        The spec.

    Raises:
        SpecError: If it cannot be read, or anything in it is not as it should be.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SpecError(
                [f"{path} is larger than {LARGEST / 1e6:g} MB, which no spec is: give another file"]
            )
        content = path.read_bytes()
    except OSError as error:
        raise SpecError([f"cannot read {path}: {error.strerror}"]) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(
            [f"{path.name}, line {line}: byte {error.start} is not UTF-8; save it as UTF-8 text"]
        ) from error
    return _Document(text, path.name, path.parent).spec()


def read_text(text: str, name: str) -> AuditSpec:
    """Read a spec that is at hand as text.

    Args:
        text: YAML.
        name: What messages call it.

    Returns:
        The spec; whether files that it names are there is not looked at.

    Raises:
        SpecError: If anything in it is not as it should be.
    """
    if len(text.encode(errors="replace")) > LARGEST:
        raise SpecError([f"{name} is larger than {LARGEST / 1e6:g} MB, which no spec is"])
    return _Document(text, name, None).spec()


def to_yaml(spec: AuditSpec) -> str:
    """A spec as YAML, which `read_text` takes back.

    Args:
        spec: Any spec.

    Returns:
        Every field, without comments.
    """
    return "\n".join(_block(spec.plain(), schema(), comments=False)) + "\n"


def commented(model: str) -> str:
    """A spec to begin with: every field with its meaning, and its default.

    Args:
        model: Name of the model that is to be audited.

    Returns:
        YAML, which reads back as the default spec of that model.
    """
    default = AuditSpec(model=specs.Subject(name=model))
    about = (
        "What `workbench audit` asks. Every field may be left out and then is as it stands here. "
        "Thresholds: a finding passes where its whole interval is at least as good as `pass`, and "
        "fails where all of it is worse than `warn`; where `pass` is below `warn`, less is better."
    )
    return "\n".join([*_comment(about), "", *_block(default.plain(), schema())]) + "\n"


@functools.cache
def _schema() -> dict[str, Any]:
    """The schema of pydantic, with the meaning of each field from the docstrings."""
    made = AuditSpec.model_json_schema()
    nodes = (made, *made["$defs"].values())
    meanings: dict[str, dict[str, str]] = {}
    for node in nodes:
        node["description"], meanings[node["title"]] = _documented(getattr(specs, node["title"]))
    for node in nodes:
        kind: type[pydantic.BaseModel] = getattr(specs, node["title"])
        for name, field in kind.model_fields.items():
            called = node["properties"][field.serialization_alias or name]
            meaning = meanings[kind.__name__].get(name) or _resolved(called, made).get(
                "description", ""
            )
            called.setdefault("description", meaning)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema() -> dict[str, Any]:
    """The JSON schema of a spec, for editors that check while one writes.

    Returns:
        The schema; every field has its meaning as a description.
    """
    return json.loads(json.dumps(_schema()))


def _documented(kind: type[pydantic.BaseModel]) -> tuple[str, dict[str, str]]:
    """What a docstring says of a class, and of each of its fields."""
    about, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"^ {4}(?=\w)", attributes, flags=re.MULTILINE)[1:]:
        name, _, meaning = entry.partition(": ")
        found[name] = " ".join(meaning.split())
    return " ".join(about.split()), found


def _resolved(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema behind a reference or behind "or null"."""
    for option in node.get("anyOf", ()):
        if option.get("type") != "null":
            return _resolved(option, root)
    if "$ref" in node:
        return root["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _field(path: _Path) -> dict[str, Any]:
    """The schema of the field at a path; empty where there is no such field."""
    root = _schema()
    node: dict[str, Any] = root
    for step in path:
        node = _resolved(node, root)
        if isinstance(step, int):
            node = node.get("items", {})
        else:
            more = node.get("additionalProperties")
            node = node.get("properties", {}).get(step, more if isinstance(more, dict) else {})
    return node


def _expected(node: dict[str, Any]) -> str:
    """What a field takes, in words."""
    made = _resolved(node, _schema())
    optional = " or null" if made is not node and "anyOf" in node else ""
    if "enum" in made or "const" in made:
        choices = made.get("enum") or [made["const"]]
        words = ", ".join(map(str, choices))
        return f"one of {words}" if len(choices) > 1 else words
    words = {
        "integer": lambda: "a whole number" + _between(made),
        "number": lambda: "a number" + (_between(made) or " that is finite"),
        "boolean": lambda: "true or false",
        "string": lambda: _text(made),
        "array": lambda: _list(made),
        "object": lambda: _mapping(made),
    }
    return words[made["type"]]() + optional


def _between(node: dict[str, Any]) -> str:
    bounds = [
        (word, node[name])
        for name, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if name in node
    ]
    said = [f"{word} {bound:,}" for word, bound in bounds]
    # "from 0 to 1", but "above 0 and below 1".
    joined = " " if [word for word, _ in bounds] == ["from", "to"] else " and "
    return f" {joined.join(said)}".replace("and to", "and up to") if said else ""


def _text(node: dict[str, Any]) -> str:
    if "pattern" in node:
        return f"text of the form {node['pattern']}"
    return f"text of {node['minLength']} to {node['maxLength']} characters"


def _list(node: dict[str, Any]) -> str:
    each = _resolved(node["items"], _schema())
    what = "mappings" if each["type"] == "object" else "texts"
    least = f"{node['minItems']} to " if "minItems" in node else "at most "
    return f"a list of {least}{node['maxItems']} {what}"


def _mapping(node: dict[str, Any]) -> str:
    if "properties" in node:
        return f"a mapping with fields {', '.join(node['properties'])}"
    return f"a mapping from names to {_expected(node['additionalProperties'])}"


@dataclasses.dataclass(frozen=True)
class _Node:
    """A value with its place.

    Attributes:
        value: A scalar, a list of nodes, or a dict of nodes by key.
        place: Line and column, from 1.
        raw: A scalar as it is written.
        keys: Places of the keys of a mapping.
    """

    value: Any
    place: tuple[int, int]
    raw: str = ""
    keys: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict[str, tuple[int, int]])

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def shown(self) -> str:
        """What stands there, short and without characters that do anything."""
        if isinstance(self.value, dict):
            return "a mapping" if self.value else "an empty mapping"
        if isinstance(self.value, list):
            return f"a list of {len(self.value)}"
        return _quoted(self.value) if isinstance(self.value, str) else self.raw or "empty"


class _Document:
    """One YAML text on its way to a spec."""

    def __init__(self, text: str, name: str, folder: Path | None) -> None:
        self._text = text
        self._name = name
        self._folder = folder

    def spec(self) -> AuditSpec:
        """The spec, or a SpecError with everything that is wrong."""
        try:
            root = self._tree()
        except yaml.MarkedYAMLError as error:
            place = _place(error.problem_mark)
            tab = "\\t" in str(error.problem)
            wrong = "a tab; expected spaces" if tab else f"this is not YAML: {error.problem}"
            raise self._error(place, f"{wrong}{self._near(place)}") from error
        except yaml.reader.ReaderError as error:
            before = self._text[: error.position]
            place = (before.count("\n") + 1, error.position - before.rfind("\n"))
            raise self._error(place, "a control character has no place in YAML") from error
        if root.value is None:
            raise self._error((1, 1), f"the file is empty; expected {_expected(_schema())}")
        try:
            found = AuditSpec.model_validate_json(json.dumps(root.plain()), strict=True)
        except pydantic.ValidationError as error:
            raise self._told(root, (_problem(root, one) for one in error.errors())) from error
        if problems := list(_unknown(found, self._folder)):
            raise self._told(root, problems)
        return found

    def _near(self, place: tuple[int, int]) -> str:
        lines = self._text.splitlines()
        line = lines[place[0] - 1].strip() if place[0] <= len(lines) else ""
        return f" (the line reads {_quoted(line)})" if line else ""

    def _error(self, place: tuple[int, int], sentence: str) -> SpecError:
        return SpecError([f"{self._name}, line {place[0]}, column {place[1]}: {sentence}"])

    def _told(self, root: _Node, problems: Iterator[_Problem] | list[_Problem]) -> SpecError:
        located = sorted(
            ((_at(root, one.path, key=one.key), one.sentence) for one in problems),
            key=lambda pair: pair[0],
        )
        return SpecError(
            [f"{self._name}, line {at[0]}, column {at[1]}: {said}" for at, said in located]
        )

    def _tree(self) -> _Node:
        events = iter(yaml.parse(self._text, Loader=yaml.SafeLoader))
        root = _Node(None, (1, 1))
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(
                        _place(event.start_mark), "a second document begins; expected one"
                    )
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, events, ())
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: _Path) -> _Node:
        place = self._plain_place(event, path)
        if len(path) > DEEPEST:
            raise self._error(place, f"{dotted(path[:2])}… is nested too deeply for a spec")
        if isinstance(event, yaml.ScalarEvent):
            # Text in quotes or in a block is text, whatever it looks like.
            value = event.value if event.style else self._scalar(event.value, place, path)
            return _Node(value, place, event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[_Node] = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                items.append(self._node(inner, events, (*path, len(items))))
            return _Node(items, place)
        values: dict[str, _Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        while not isinstance(inner := next(events), yaml.MappingEndEvent):
            at = self._plain_place(inner, path)
            if not isinstance(inner, yaml.ScalarEvent):
                raise self._error(at, f"a name in {dotted(path)} is no text; expected a field")
            key = inner.value
            if key in keys:
                where = dotted((*path, key))
                raise self._error(
                    at, f"{where} is given twice; expected it once (line {keys[key][0]})"
                )
            keys[key] = at
            values[key] = self._node(next(events), events, (*path, key))
        return _Node(values, place, keys=keys)

    def _plain_place(self, event: yaml.Event, path: _Path) -> tuple[int, int]:
        """Where something begins, if it is a value alone."""
        place = _place(event.start_mark)
        if getattr(event, "anchor", None) is not None:
            raise self._error(
                place,
                f"{dotted(path)} has an anchor or an alias (& or *); expected the value itself",
            )
        if getattr(event, "tag", None) is not None:
            raise self._error(place, f"{dotted(path)} has a tag (!); expected the value alone")
        return place

    def _scalar(self, raw: str, place: tuple[int, int], path: _Path) -> Any:
        """What an unquoted scalar is in YAML 1.2, if nobody takes it for anything else."""
        if raw.lower() in _WORDS:
            return _WORDS[raw.lower()]
        if _UNCLEAR_WORD.fullmatch(raw):
            raise self._error(
                place,
                f"{dotted(path)} is {raw}, which is text for some readers of YAML and not for "
                f'others; expected true, false, or "{raw}" in quotes',
            )
        if _NOT_FINITE.fullmatch(raw):
            raise self._error(place, f"{dotted(path)} is {raw}; {self._wanted(path)}")
        if _INTEGER.fullmatch(raw):
            if len(raw) > _LONGEST_INTEGER:
                raise self._error(place, f"{dotted(path)} is too large; {self._wanted(path)}")
            return int(raw)
        if _DECIMAL.fullmatch(raw):
            if not math.isfinite(float(raw)):
                raise self._error(place, f"{dotted(path)} is too large; {self._wanted(path)}")
            return float(raw)
        if _UNCLEAR_NUMBER.fullmatch(raw):
            raise self._error(
                place,
                f"{dotted(path)} is {raw[:_LONGEST_SHOWN]}, which readers of YAML take for "
                "different numbers; expected decimal digits, or text in quotes",
            )
        return raw

    def _wanted(self, path: _Path) -> str:
        field = _field(path)
        return f"expected {_expected(field)}" if field else "expected a field that there is"


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Something wrong: at which path, whether with its key, and the sentence."""

    path: _Path
    sentence: str
    key: bool = False


def dotted(path: Sequence[str | int]) -> str:
    """A path in one word.

    Args:
        path: Keys and indices.

    Returns:
        For example "behaviours[0].accuracy.pass".
    """
    said = ""
    for step in path:
        if isinstance(step, int):
            said += f"[{step}]"
        else:
            name = step if step.isprintable() else _quoted(step)
            said += f".{name[:_LONGEST_SHOWN]}" if said else name[:_LONGEST_SHOWN]
    return said or "the spec"


def _quoted(text: str) -> str:
    """A text in quotes, short, and without characters that do anything."""
    short = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def _place(mark: yaml.Mark | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _at(root: _Node, path: _Path, *, key: bool) -> tuple[int, int]:
    """Where a path stands; where the nearest thing above it does, if it is not there."""
    node = root
    for i, step in enumerate(path):
        if isinstance(node.value, dict) and step in node.value:
            if key and i == len(path) - 1:
                return node.keys[str(step)]
            node = node.value[step]
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            break
    return node.place


def _found(root: _Node, path: _Path) -> _Node:
    node = root
    for step in path:
        node = node.value[step]
    return node


def _problem(root: _Node, error: Any) -> _Problem:
    """A problem that pydantic found, in our words."""
    path: _Path = error["loc"]
    named = path[-1:] == ("[key]",)
    path = path[:-1] if named else path
    where, node = dotted(path), _field(path)
    if error["type"] == "extra_forbidden":
        above = _resolved(_field(path[:-1]) or _schema(), _schema())
        known = list(above["properties"])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        return _Problem(
            path, f"{where} is no field; {guess}expected one of {', '.join(known)}", key=True
        )
    if error["type"] == "missing":
        return _Problem(path, f"{where} is missing; expected {_expected(node)}")
    if error["type"] == "value_error":
        return _Problem(path, f"{where}: {error['ctx']['error']}")
    if named:
        return _Problem(
            path, f"{where} has a name without text; expected 1 character or more", key=True
        )
    shown = _found(root, path).shown()
    return _Problem(path, f"{where} is {shown}; expected {_expected(node)}")


def _unknown(spec: AuditSpec, folder: Path | None) -> Iterator[_Problem]:
    """What is well formed and still cannot be meant."""
    yield from _wrong_behaviours(spec)
    yield from _wrong_questions(spec)
    if folder is not None:
        yield from _missing_files(spec, folder)


def _wrong_behaviours(spec: AuditSpec) -> Iterator[_Problem]:
    from workbench.core.prompts import tasks

    titles: dict[str, int] = {}
    for i, behaviour in enumerate(spec.behaviours):
        source = "task" if behaviour.task is not None else "pairs"
        path = ("behaviours", i, source)
        if behaviour.task is not None and behaviour.task not in tasks.TASKS:
            yield _not_one_of(path, behaviour.task, list(tasks.TASKS))
        if behaviour.task is not None and behaviour.align:
            at = ("behaviours", i, "align")
            yield _Problem(
                at,
                f"{dotted(at)} is true; expected false, as the pairs of a task have equal lengths",
            )
        if behaviour.title in titles:
            yield _Problem(
                path,
                f"{dotted(path)} is {_quoted(behaviour.title)}; expected another than that of "
                f"behaviours[{titles[behaviour.title]}]",
            )
        titles.setdefault(behaviour.title, i)


def _wrong_questions(spec: AuditSpec) -> Iterator[_Problem]:
    from workbench.core.engine import sites, units

    asked = spec.questions
    for i, kind in enumerate(asked.sites.kinds):
        path = ("questions", "sites", "kinds", i)
        if kind not in sites.SITES:
            yield _not_one_of(path, kind, list(sites.SITES))
        elif kind in asked.sites.kinds[:i]:
            yield _Problem(path, f"{dotted(path)} is {kind} once more; expected each kind once")
    for i, name in enumerate(asked.units.units):
        path = ("questions", "units", "units", i)
        try:
            unit = units.Unit.parse(name)
        except ValueError:
            yield _Problem(
                path,
                f"{dotted(path)} is {_quoted(name)}; expected kind layer.index, as in "
                '"neuron 2.31"',
            )
        else:
            if unit.kind not in units.KINDS:
                yield _not_one_of(path, unit.kind, list(units.KINDS), what="of the kind ")
    yield from _wrong_concepts(spec)


def _wrong_concepts(spec: AuditSpec) -> Iterator[_Problem]:
    asked = spec.questions.concepts
    if asked.concepts:
        from workbench.core.prompts import named_concepts

        known = list(named_concepts.named_concepts(spec.model.name))
        for i, name in enumerate(asked.concepts):
            if not _is_file_of_concept(name) and name not in known:
                yield _not_one_of(("questions", "concepts", "concepts", i), name, known)
    for name in asked.expect:
        if asked.concepts and name not in asked.concepts:
            path = ("questions", "concepts", "expect", name)
            yield _not_one_of(path, name, list(asked.concepts), key=True)


def _not_one_of(
    path: _Path, given: str, known: list[str], *, what: str = "", key: bool = False
) -> _Problem:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    guess = f"did you mean {near[0]}? " if near else ""
    shown = ", ".join(known[:_MOST_NAMES]) + (", …" if len(known) > _MOST_NAMES else "")
    return _Problem(
        path, f"{dotted(path)} is {what}{_quoted(given)}; {guess}expected one of {shown}", key
    )


def _is_file_of_concept(name: str) -> bool:
    return name.lower().endswith(_FILES_OF_CONCEPTS)


def _missing_files(spec: AuditSpec, folder: Path) -> Iterator[_Problem]:
    for path, name in _files(spec):
        from workbench.report import examining

        try:
            examining.named_file(folder, name)
        except examining.NotExamined as error:
            yield _Problem(
                path,
                f"{dotted(path)} is {_quoted(name)}; expected a file beside the spec, or below it "
                f"({error})",
            )


def _files(spec: AuditSpec) -> Iterator[tuple[_Path, str]]:
    """The files that a spec names, with their paths in it."""
    for i, behaviour in enumerate(spec.behaviours):
        if behaviour.pairs is not None:
            yield ("behaviours", i, "pairs"), behaviour.pairs
    if spec.questions.units.corpus is not None:
        yield ("questions", "units", "corpus"), spec.questions.units.corpus
    if spec.questions.training.run is not None:
        yield ("questions", "training", "run"), spec.questions.training.run
    for i, name in enumerate(spec.questions.concepts.concepts):
        if _is_file_of_concept(name):
            yield ("questions", "concepts", "concepts", i), name


def _block(value: dict[str, Any], node: dict[str, Any], *, comments: bool = True) -> list[str]:
    """A mapping as lines, each field with its meaning above it if comments are asked for."""
    root = _schema()
    lines: list[str] = []
    for name, field in _resolved(node, root)["properties"].items():
        held, inner = value[name], _resolved(field, root)
        if comments:
            lines += _comment(_meaning(field, inner))
        if inner.get("properties", _THRESHOLD).keys() != _THRESHOLD.keys():
            lines += [f"{name}:", *_indented(_block(held, inner, comments=comments))]
        elif isinstance(held, list) and "$ref" in inner["items"]:
            lines += _list_of_mappings(name, held, inner["items"], comments=comments)
        else:
            lines.append(f"{name}: {_flow(held)}")
    return lines


def _list_of_mappings(
    name: str, held: list[Any], node: dict[str, Any], *, comments: bool
) -> list[str]:
    if held:
        blocks = [_indented(_block(one, node, comments=comments)) for one in held]
        items = [f"  - {first.strip()}" for first, *_ in blocks]
        return [
            f"{name}:",
            *(
                line
                for item, (_, *rest) in zip(items, blocks, strict=True)
                for line in [item, *_indented(rest)]
            ),
        ]
    if not comments:
        return [f"{name}: []"]
    example = specs.Behaviour(task="indirect-object").model_dump(mode="json", by_alias=True)
    written = ["-", *_indented(_block(example, node))]
    return [
        f"{name}: []",
        *_comment("For example, in place of []:"),
        *(f"#   {line}" for line in written),
    ]


def _meaning(field: dict[str, Any], inner: dict[str, Any]) -> str:
    """What a comment says of a field, and of what it takes where that is not plain to see."""
    said = field["description"]
    said = said if said.endswith("?") else f"{said.rstrip('.')}."
    plain = inner["type"] in ("object", "array") or inner.keys() >= {"minLength"}
    return said if plain else f"{said} Expected: {_expected(field)}."


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _LINE)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)}: {_flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text_in_quotes(value) if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    return name if name in _THRESHOLD else _text_in_quotes(name)


def _text_in_quotes(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True).strip()
