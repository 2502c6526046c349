"""Does a report say what its model gives? Everything in it is computed again and compared.

1. The report is read out of its JSON or its page, with limits on size and form; nothing in it is
   run. A page is also drawn again from its own data, so that a number that was altered in what one
   sees, but not in the data beneath, is found.
2. The manifest must agree with itself: seed, fingerprint, and the digests of the files it names.
3. The model is opened and must have the fingerprint of the manifest: else it is another model, and
   there is nothing to compare.
4. The audit of the manifest's spec is made again, with nothing taken from the run store.
5. Verdicts, numbers, words, tables and the data of every figure are compared, each by its path.
   Numbers may differ by the tolerance, relative to the larger of the two, or to `SMALL` where both
   are smaller. Words must be equal. A number within a text must be equal as it is printed, unless
   it is as small as that; and the last digit may differ by one where a number of the report lies,
   to the tolerance, on the edge between the two (another machine rounds it the other way). Wall
   times, dates, run ids, hardware and versions are not compared but said.

What is loaded: a bundled model, or the folder that the report names. The name of a hub repository
is looked up among what was downloaded before: a report, which anybody may have written, makes no
request to another host. With `model` the reader names the model, and then it may be downloaded.

Limits: another machine may round the last digits another way; a tolerance below 1e-5 is for the
machine that the report was made on. A question that the limit of time cut off is found to differ
where this machine is faster or slower.
"""

from __future__ import annotations

import bisect
import dataclasses
import decimal
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pydantic

from workbench.core import files, reading
from workbench.report import document, spec_files
from workbench.report.document import Cell, Report

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.engine.running import Progress

TOLERANCE = 1e-4
# What is smaller is compared as if it were as large: it is what rounding leaves of nothing.
SMALL = 0.01
ABSENT = "absent"
_PAGES = (".html", ".htm")
# A minus belongs to a number where it joins it to nothing.
_NUMBER = re.compile(r"(?:(?<![\w.)\]])-)?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_AMOUNT = re.compile(r"\d[\d.,]*(?: s| min)?")
# What a section or a manifest says of the machine and the moment, not of the model.
_NOT_COMPARED = frozenset({"seconds", "run_ids"})
_OF_THE_PLACE = "where it comes from"


class ReproductionError(ValueError):
    """A report cannot be computed again; the message says why and what to do."""


class ReportFileError(ReproductionError):
    """A file is no report that can be read; the message says why."""


class WrongModelError(ReproductionError):
    """The model that is there is not the one that the report is about."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A report file.

    Attributes:
        report: What it claims.
        page: The whole page, if it is one.
    """

    report: Report
    page: str | None = None


@dataclasses.dataclass(frozen=True)
class Compared:
    """One claim.

    Attributes:
        where: Its path in the report, such as "findings[sites/induction].measured[effect].value".
        claimed: What the report says; "absent" where it says nothing.
        recomputed: What was found now; "absent" where nothing was.
        difference: Of numbers.
        same: Whether they agree.
    """

    where: str
    claimed: Cell
    recomputed: Cell
    difference: float | None
    same: bool


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A report beside what was computed again.

    Attributes:
        model: Name of the model.
        fingerprint: That report and model have in common.
        tolerance: Of numbers.
        rows: Every claim, in the order of the report.
        made_with: Versions and hardware that differ: what, then, now.
        notes: What could not be compared, and why.
    """

    model: str
    fingerprint: str
    tolerance: float
    rows: tuple[Compared, ...]
    made_with: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def different(self) -> tuple[Compared, ...]:
        """The claims that do not hold."""
        return tuple(row for row in self.rows if not row.same)

    @property
    def same(self) -> bool:
        """Whether every claim holds."""
        return not self.different

    def summary(self) -> str:
        """The outcome in a sentence."""
        numbers = sum(row.difference is not None for row in self.rows)
        compared = f"{len(self.rows):,} claims, {numbers:,} of them numbers, were compared"
        if self.same:
            return (
                f"The report is reproduced: {compared}, and all agree (tolerance "
                f"{self.tolerance:g})."
            )
        return (
            f"The report is not reproduced: {compared}, and {len(self.different):,} differ "
            f"beyond a tolerance of {self.tolerance:g}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a claim."""
        import pandas as pd

        return pd.DataFrame(
            [dataclasses.asdict(row) for row in self.rows],
            columns=[field.name for field in dataclasses.fields(Compared)],
        )


def read(path: Path) -> Report:
    """Read a report out of its JSON or its page.

    Args:
        path: A `.json` or `.html` file that `workbench audit` wrote.

    Returns:
        The report.

    Raises:
        ReportFileError: If it is no report.
    """
    return open_file(path).report


def open_file(path: Path) -> Opened:
    """Read a report, and keep the page that it stands in.

    Args:
        path: A `.json` or `.html` file that `workbench audit` wrote.

    Returns:
        Both.

    Raises:
        ReportFileError: If it is no report.
    """
    suffix = path.suffix.lower()
    if suffix != ".json" and suffix not in _PAGES:
        raise ReportFileError(
            f"{path} is no .json or .html file: give one of these, which hold every number of a "
            "report (a PDF does not)"
        )
    try:
        if path.stat().st_size > document.LARGEST:
            raise ReportFileError(f"{path} is larger than {document.LARGEST / 1e6:g} MB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportFileError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportFileError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if suffix == ".json":
        return Opened(_parsed(text, path))
    from workbench.report import html

    try:
        data = html.read(text)
    except ValueError as error:
        raise ReportFileError(f"{path} is no page of a report: {error}") from error
    return Opened(_parsed(data, path), text)


def _parsed(text: str, path: Path) -> Report:
    try:
        plain = reading.json_of(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except ValueError as error:
        raise ReportFileError(f"{path} does not hold the JSON of a report: {error}") from error
    if isinstance(plain, dict) and plain.get("format", 1) != 1:
        raise ReportFileError(
            f"{path} is of format {reading.quoted(plain['format'])}; this workbench reads format 1"
        )
    try:
        return Report.model_validate(plain)
    except pydantic.ValidationError as error:
        path_of_first = error.errors(include_url=False)[0]["loc"]
        first = spec_files.dotted(path_of_first) if path_of_first else "all of it"
        raise ReportFileError(
            f"{path} is no report of this workbench: {first} is missing or not as it should be "
            f"({error.error_count()} such fields)"
        ) from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are there once: of two, a person reads the one and a program another."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise reading.UnreadableError(f"{reading.quoted(twice)} is given twice in one object")
    return made


def _no_constant(name: str) -> None:
    raise reading.UnreadableError(f"{name} is no number of JSON")


def reproduce(
    report: Report,
    *,
    model: str | TransformerBridge | None = None,
    folder: Path = Path("."),
    tolerance: float | int = TOLERANCE,
    page: str | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Compute a report again and compare everything that it claims.

    Args:
        report: The report.
        model: Where the model is, if not where the report says, or the model itself; its
            fingerprint must be that of the report all the same.
        folder: What the paths of the report's spec are relative to.
        tolerance: Largest difference of two numbers, relative to the larger one.
        page: The page that the report was read from, to see that it shows what its data say.
        progress: Told how far it is; may raise to cancel.

    Returns:
        Claims beside what was found.

    Raises:
        WrongModelError: If the model is another one.
        ReproductionError: If the model or a file that the report names is not to be had.
    """
    from workbench.core.engine import running
    from workbench.core.models import card, sources
    from workbench.report import auditing

    tell = progress or running.no_progress
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ReproductionError(f"tolerance = {tolerance}; expected a number of at least 0")
    claimed = report.manifest
    own = _own_claims(report, folder)
    shown, notes = _shown(report, page)
    if any(not row.same for row in own):
        return Reproduction(
            model=claimed.model,
            fingerprint=claimed.fingerprint,
            tolerance=float(tolerance),
            rows=(*own, *shown),
            notes=(*notes, "The manifest is not in agreement with itself: nothing was computed."),
        )
    if model is None or isinstance(model, str):
        where = location(report, model)
        tell(0.0, f"loading {where}")
        model = sources.load_model(where)
    found = card.fingerprint(model)
    if found != claimed.fingerprint:
        raise WrongModelError(
            f"the model that is here has the fingerprint {found[:16]}…, and the report is about "
            f"{reading.quoted(claimed.model)} with the fingerprint {claimed.fingerprint[:16]}…: "
            "its weights or its configuration are not the same"
        )
    # Texts of a report name the model.
    with sources.called(model, claimed.model):
        again = auditing.audit(
            model,
            claimed.spec,
            store=None,
            folder=folder,
            selftest=report.selftest is not None,
            progress=running.part(tell, 0.02, 1.0),
        )
    return Reproduction(
        model=claimed.model,
        fingerprint=found,
        tolerance=float(tolerance),
        rows=(*own, *shown, *compared(report, again, tolerance)),
        made_with=_made_with(report, again),
        notes=notes,
    )


def location(report: Report, model: str | None = None) -> str:
    """Where the model of a report is loaded from; nothing is downloaded to find out.

    Args:
        report: The report.
        model: What a person says instead.

    Returns:
        A bundled name, a folder, or what the person says.

    Raises:
        ReproductionError: If the report names what is not here.
    """
    from workbench.core.models import card

    if model is not None:
        return model
    name = report.manifest.model
    if name in card.list_models():
        return name
    folder = files.folder_of(name)
    if folder is not None:
        return str(folder)
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.snapshot_download(name, local_files_only=True)
    except (errors.HFValidationError, errors.LocalEntryNotFoundError, OSError) as error:
        raise ReproductionError(
            f"the report is about {reading.quoted(name)}, which is neither bundled, nor a folder "
            "here, nor downloaded already, and nothing is downloaded because a report says so: say "
            "where the model is (--model FOLDER or --model NAME)"
        ) from error


def _own_claims(report: Report, folder: Path) -> list[Compared]:
    """What a manifest must be in agreement with itself about, before anything is computed."""
    made = report.manifest
    rows = [_row("manifest.seed", made.seed, made.spec.seed)]
    if made.spec.model.fingerprint is not None:
        rows.append(_row("manifest.fingerprint", made.fingerprint, made.spec.model.fingerprint))
    for name, claimed in made.inputs.items():
        rows.append(_row(f"manifest.inputs[{name}]", claimed, _digest(folder, name)))
    return rows


def _shown(report: Report, page: str | None) -> tuple[list[Compared], tuple[str, ...]]:
    """Whether a page is what its data are drawn as; if that cannot be told, why."""
    if page is None:
        return [], ()
    import workbench
    from workbench.report import exhibits, html

    now = {"workbench": workbench.__version__} | exhibits.drawn_with()
    for name, then in report.manifest.versions.items():
        if now.get(name, then) != then:
            return [], (
                f"The page was drawn with {name} {then}, and here is {now[name]}: whether it shows "
                "what its data say could not be compared; the data themselves were.",
            )
    data = "what its data say"
    shown = data if html.render(report) == page else f"something else than {data}"
    return [_row("page", shown, data)], ()


def _digest(folder: Path, name: str) -> str:
    from workbench.report import examining

    try:
        return examining.digest(examining.named_file(folder, name))
    except (OSError, examining.NotExamined) as error:
        raise ReproductionError(
            f"the report was made with a file {reading.quoted(name)}, which cannot be read in "
            f"{str(folder)!r}: "
            "say in which folder the files of its spec are (--folder)"
        ) from error


def _made_with(report: Report, again: Report) -> tuple[tuple[str, str, str], ...]:
    then = {**report.manifest.versions, **report.manifest.hardware}
    now = {**again.manifest.versions, **again.manifest.hardware}
    return tuple(
        (name, then.get(name, "not said"), now.get(name, "not here"))
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    )


def compared(claimed: Report, again: Report, tolerance: float | int = TOLERANCE) -> list[Compared]:
    """Everything that two reports say, side by side.

    Args:
        claimed: The one.
        again: The other.
        tolerance: Largest difference of two numbers, relative to the larger one.

    Returns:
        One row a number, word or text, by its path.
    """
    then, now = (dict(_claims(one)) for one in (claimed, again))
    rounding = _Rounding(_printed(now), tolerance)
    return [
        _row(where, then.get(where, ABSENT), now.get(where, ABSENT), rounding)
        for where in dict.fromkeys([*then, *now])
    ]


def _claims(report: Report) -> Iterator[tuple[str, Cell]]:
    plain = report.model_dump(mode="json", by_alias=True)
    made = plain.pop("manifest")
    plain["examined"] = [fact for fact in plain["examined"] if fact[0] != _OF_THE_PLACE]
    yield from _leaves("", plain)
    # Behaviours, units and concepts that were chosen are findings too.
    yield from _leaves("manifest", {name: made[name] for name in ("model", "spec", "seed")})


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Cell]]:
    """Every number and text below a value, by its path."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if name not in _NOT_COMPARED:
                yield from _leaves(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, list) and value:
        for name, inner in zip(_names(value), value, strict=True):
            yield from _leaves(f"{path}[{name}]", inner)
    elif isinstance(value, (dict, list)):
        yield path, "nothing"
    else:
        yield path, value


def _names(items: list[Any]) -> list[str]:
    """What the items of a list are called: by their own ids or names, if all have one."""
    for name in ("id", "name", 0):
        own = [_called(item, name) for item in items]
        if all(isinstance(one, str) for one in own) and len(set(own)) == len(own):
            return [str(one) for one in own]
    return [str(i) for i in range(len(items))]


def _called(item: Any, name: str | int) -> Any:
    """The id or name of an item; of a pair, as facts of a model are, its first half."""
    if isinstance(item, dict):
        return item.get(name)
    pair = isinstance(item, list) and len(item) == len(("name", "value"))
    return item[0] if pair and name == 0 else None


def _printed(claims: dict[str, Cell]) -> Iterator[float]:
    """The numbers that the texts of a report are about: all but those of its figures."""
    for where, value in claims.items():
        if isinstance(value, (int, float)) and ".figure." not in where:
            yield abs(float(value))


class _Rounding:
    """Which printed numbers may be one number, rounded on two machines."""

    def __init__(self, numbers: Iterable[float], tolerance: float | int) -> None:
        self.tolerance = float(tolerance)
        # Shares are printed as percentages, too.
        self._numbers = sorted({scale * one for one in numbers for scale in (1, 100)})

    def explains(self, claimed: str, recomputed: str) -> bool:
        """Whether both are small, or a number of the report lies on the edge between them."""
        one, other = (decimal.Decimal(text.replace(",", "")) for text in (claimed, recomputed))
        if max(abs(one), abs(other)) < SMALL:
            return float(abs(one - other)) <= self.tolerance * SMALL
        if one == other:
            return claimed == recomputed
        unit = decimal.Decimal((0, (1,), min(_exponent(one), _exponent(other))))
        if abs(one - other) != unit:
            return False
        edge = abs(float((one + other) / 2))
        if not math.isfinite(edge):
            return False
        near = self.tolerance * max(edge, SMALL)
        first = bisect.bisect_left(self._numbers, edge - near)
        return first < len(self._numbers) and self._numbers[first] <= edge + near


def _exponent(number: decimal.Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _row(
    where: str, claimed: Cell, recomputed: Cell, rounding: _Rounding | None = None
) -> Compared:
    if _is_number(claimed) and _is_number(recomputed):
        difference = abs(float(claimed) - float(recomputed))
        whole = isinstance(claimed, int) and isinstance(recomputed, int)
        near = 0.0 if rounding is None or whole else rounding.tolerance
        largest = max(abs(claimed), abs(recomputed), SMALL)
        return Compared(where, claimed, recomputed, difference, difference <= near * largest)
    same = type(claimed) is type(recomputed) and claimed == recomputed
    if not same and rounding and isinstance(claimed, str) and isinstance(recomputed, str):
        if where.endswith(".reason"):
            # How much time is left for a question is not the same twice.
            same = _AMOUNT.split(claimed) == _AMOUNT.split(recomputed)
        else:
            same = _same_text(claimed, recomputed, rounding)
    return Compared(where, claimed, recomputed, None, same)


def _is_number(value: Cell) -> TypeGuard[float | int]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same_text(claimed: str, recomputed: str, rounding: _Rounding) -> bool:
    """Whether words are equal, and numbers to the last digit."""
    if _NUMBER.split(claimed) != _NUMBER.split(recomputed):
        return False
    pairs = zip(_NUMBER.findall(claimed), _NUMBER.findall(recomputed), strict=True)
    return all(rounding.explains(*pair) for pair in pairs)
