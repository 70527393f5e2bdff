"""Losses of trained models, as points and as a CSV file, checked cell by cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from archlab.errors import ArchlabError, did_you_mean, one_line, show_value, why_unreadable

REQUIRED = ("candidate", "params", "tokens", "loss")
COLUMNS = (*REQUIRED, "seed")
LIMITS = (1e-30, 1e30)  # of all numbers, so that powers of them are finite
_LARGEST_FILE = 2**28  # bytes; a million rows are a fifth of it


@dataclass(frozen=True)
class LossPoint:
    """The loss of a trained model, in any unit, with its parameters without embeddings and the tokens it has seen."""

    candidate: str
    params: float
    tokens: float
    loss: float
    seed: str = "0"


def read_losses(file: Path) -> tuple[list[LossPoint], list[str]]:
    """Return the points of a CSV file with a header, and notes about rows left out.

    Raises ArchlabError naming the file, and where it applies the row (its line in the file) and the column.
    """
    rows = _rows(file, _text_of(file))
    first = next(rows, None)
    if first is None:
        raise ArchlabError(f"{file}: is empty: a header with {', '.join(REQUIRED)} is expected")
    header = _check_header(file, [name.strip() for name in first[1]])
    points: list[LossPoint] = []
    seen: dict[tuple[object, ...], int] = {}
    for line, cells in rows:
        point = _point(file, line, header, cells)
        key = (point.candidate, point.params, point.tokens, point.seed)
        if key in seen:
            raise ArchlabError(
                f"{file}, row {line}: {_describe(point)} stands in row {seen[key]} too; "
                "runs of the same size and tokens need different seeds"
            )
        seen[key] = line
        points.append(point)
    if not points:
        raise ArchlabError(f"{file}: has a header and no losses")
    ignored = [name for name in header if name not in COLUMNS]
    notes = [f"columns that are not read: {', '.join(ignored)}"] if ignored else []
    return points, notes


def number_problem(value: float) -> str:
    """Return the problem of a size, a token count or a loss, or nothing."""
    if not (math.isfinite(value) and value > 0):
        return "is not a number above 0"
    return "" if LIMITS[0] <= value <= LIMITS[1] else f"is not between {LIMITS[0]:g} and {LIMITS[1]:g}"


def check_points(points: Iterable[LossPoint]) -> None:
    """Raise ArchlabError naming the first point whose numbers no law can be fitted to, or that appears twice."""
    seen = set()
    for point in points:
        if not point.candidate.strip():
            raise ArchlabError("a loss has no candidate")
        for name in ("params", "tokens", "loss"):
            value = getattr(point, name)
            if problem := number_problem(value):
                raise ArchlabError(f"{point.candidate}: {name} {show_value(value)} {problem}")
        key = (point.candidate, point.params, point.tokens, point.seed)
        if key in seen:
            raise ArchlabError(f"{_describe(point)} appears twice; runs of the same size need different seeds")
        seen.add(key)


def _describe(point: LossPoint) -> str:
    return f"{point.candidate} of {point.params:g} params on {point.tokens:g} tokens, seed {point.seed}"


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ArchlabError(f"{file}: is larger than {_LARGEST_FILE >> 20} MiB")
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{file}: cannot be read: {why_unreadable(error)}") from error
    if "\0" in text:
        raise ArchlabError(f"{file}: is not text: it has NUL characters")
    return text


def _rows(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line of the file on which it begins."""
    reader, line = csv.reader(text.splitlines(keepends=True), strict=True, skipinitialspace=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ArchlabError(f"{file}, row {line}: is not CSV: {one_line(error)}") from error


def _check_header(file: Path, header: Sequence[str]) -> list[str]:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        for other, word in ((";", "semicolons"), ("\t", "tabs")):
            if any(other in name for name in header):
                raise ArchlabError(f"{file}: columns are separated by {word}; commas are expected")
        hint = did_you_mean(missing[0], [name for name in header if name and name not in COLUMNS])
        raise ArchlabError(f"{file}: there is no column {missing[0]!r}{hint.replace('known', 'its columns')}")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise ArchlabError(f"{file}: the column {twice[0]!r} appears twice")
    return list(header)


def _point(file: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> LossPoint:
    if len(cells) != len(header):
        raise ArchlabError(f"{file}, row {line}: has {len(cells)} cells, but the header {len(header)}")
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    if not row["candidate"]:
        raise ArchlabError(f"{file}, row {line}, column candidate: is empty")
    params, tokens, loss = (_number(file, line, name, row[name]) for name in REQUIRED[1:])
    return LossPoint(row["candidate"], params, tokens, loss, row.get("seed") or "0")


def _number(file: Path, line: int, column: str, cell: str) -> float:
    where = f"{file}, row {line}, column {column}"
    if not cell:
        raise ArchlabError(f"{where}: is empty")
    try:
        value = float(cell)
    except ValueError as error:
        hint = "; a decimal point is expected" if "," in cell else ""
        raise ArchlabError(f"{where}: {show_value(cell, 40)} is not a number{hint}") from error
    if problem := number_problem(value):
        raise ArchlabError(f"{where}: {show_value(cell, 40)} {problem}")
    return value
