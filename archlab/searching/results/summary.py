"""The summary of a search: summary.json, written at its end and read by its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.storage.files import write_text
from archlab.storage.json_values import require_fields
from archlab.storage.provenance import require_corpus

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
_NAME = "summary.json"
_FORMER = {"winner": "best_trial"}  # the key in summaries that archlab 0.1 wrote


@dataclass(frozen=True)
class TrialSummary:
    """The best trial: its number, the values of the varied knobs, and its metrics.

    `metrics` are those of training, `validation` those on the whole validation split.
    """

    trial: int
    values: dict[str, Json]
    metrics: dict[str, float]
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BaselineSummary:
    """The training run of the base experiment: its metrics, or the reason why it failed."""

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchSummary:
    """The best trial of a search, the baseline, general compressors, and the corpus and machine of the measurements.

    `choices` has the results of each choice of a varied path (`PathResult`), `spent` the seconds, tokens and FLOPs of
    all workers together.

    `trials` counts trials by state, `pareto` numbers the trials of the Pareto front where there are several
    objectives, `compressors` are bits per byte of whole-file compressors on the validation text. `search_id` is the
    UUID of the search.
    """

    search: str
    objectives: dict[str, str]
    trials: dict[str, int]
    best_trial: TrialSummary | None
    baseline: BaselineSummary
    pareto: list[int]
    compressors: dict[str, float]
    validation_bytes: int
    tokens_per_trial: int
    corpus: dict[str, Json]
    machine: dict[str, str | int]
    versions: dict[str, str]
    search_id: str = ""
    choices: list[Json] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write summary.json into a search's directory."""
        write_text(folder / _NAME, json.dumps(asdict(self), indent=2))


def read_summary(folder: Path) -> SearchSummary | None:
    """Return the summary in a search's directory, or None until the search has ended.

    Raises ArchlabError for a file that is not a summary.
    """
    file = folder / _NAME
    if not file.is_file():
        return None
    try:
        summary = _parse(read_object(file, "the summary of a search"))
    except (TypeError, KeyError, AttributeError) as error:
        raise ArchlabError(f"{file}: is not the summary of a search: {one_line(error)}") from error
    require_fields(summary, file)
    for part in (summary.baseline, summary.best_trial):
        if part is not None:
            require_fields(part, file)
    require_corpus(summary.corpus, file)
    return summary


def _parse(data: Mapping[str, Any]) -> SearchSummary:
    data = {_FORMER.get(key, key): value for key, value in data.items()}
    later: dict[str, Any] = {"search_id": "", "choices": [], "spent": {}}  # missing in those of earlier versions
    data = later | data
    known = {key.name: data[key.name] for key in fields(SearchSummary)}
    best = known.pop("best_trial")
    baseline = BaselineSummary(**known.pop("baseline"))
    return SearchSummary(**known, best_trial=TrialSummary(**best) if best else None, baseline=baseline)
