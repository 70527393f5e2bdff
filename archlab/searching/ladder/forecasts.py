"""Forecasts, written down before the rung that they are of is trained, and never changed.

Each file has the SHA-256 of its own content and that of the forecast before it, so that one that was changed, or taken
out of the chain, is refused. A hash does not keep anybody from rewriting the whole chain: who wants to prove a
forecast to others publishes its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from archlab.errors import ArchlabError
from archlab.storage.files import write_text
from archlab.storage.json_values import read_record

DIRECTORY = "forecasts"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class Forecast:
    """The forecast of a rung before it was trained, or of the target at the end (`rung` 0).

    - `written`: the time, in UTC.
    - `params`, `tokens`: the size of the forecast, embeddings left out.
    - `ranking`: the candidates, the expected best first, by `method`: the law or the loss at the largest rung.
    - `candidates`: of each, `forecast`, `interval` and `run_interval` (90 %, of the mean over seeds and of one run),
      `probability_best`, and the `params` that it has there.
    - `problem`: why there are no figures.
    - `losses`: SHA-256 of the losses known then; `former`: that of the forecast before; `sha256`: of all of this.
    """

    rung: int
    written: str
    metric: str
    params: float
    tokens: float
    method: str
    ranking: list[str]
    candidates: dict[str, Json]
    problem: str
    losses: str
    former: str
    sha256: str = ""


@dataclass(frozen=True)
class ForecastDraft:
    """A forecast before it is dated and chained."""

    metric: str
    params: float
    tokens: float
    method: str
    ranking: list[str]
    candidates: dict[str, Json] = field(default_factory=dict)
    problem: str = ""


def write_forecast(folder: Path, rung: int, draft: ForecastDraft, losses: Sequence[Mapping[str, Any]]) -> Forecast:
    """Write the forecast of a rung as the next of the chain, unless there is one; return the stored one."""
    chain = read_forecasts(folder)
    if rung in chain:
        return chain[rung]
    former = list(chain.values())[-1].sha256 if chain else ""
    written = datetime.now(UTC).isoformat(timespec="seconds")
    forecast = Forecast(rung, written, **vars(draft), losses=_digest(list(losses)), former=former)
    forecast = replace(forecast, sha256=_hash_of(forecast))
    file = _file(folder, len(chain) + 1, rung)
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(asdict(forecast), indent=2))
    return forecast


def read_forecasts(folder: Path) -> dict[int, Forecast]:
    """Return the forecasts of a ladder by rung, in the order in which they were written.

    Raises ArchlabError for a file that was changed since, or that does not follow the one before.
    """
    found: dict[int, Forecast] = {}
    former = ""
    for file in sorted((folder / DIRECTORY).glob("[0-9]*.json")):
        forecast = _read(file)
        if forecast.sha256 != _hash_of(forecast):
            raise ArchlabError(f"{file}: was changed after it was written; restore it, for a forecast stays as it was")
        if forecast.former != former:
            raise ArchlabError(f"{file}: does not follow the forecast before it, which was removed or replaced")
        found[forecast.rung], former = forecast, forecast.sha256
    return found


def require_forecast(folder: Path, rung: int) -> Forecast:
    """Return the forecast of a rung; raise ArchlabError if the rung was started and its forecast is gone."""
    forecasts = read_forecasts(folder)
    if rung not in forecasts:
        raise ArchlabError(f"{folder / DIRECTORY}: has no forecast of rung {rung}, which has been trained; restore it")
    return forecasts[rung]


def _file(folder: Path, number: int, rung: int) -> Path:
    return folder / DIRECTORY / f"{number:02d}_{f'rung_{rung}' if rung else 'target'}.json"


def _read(file: Path) -> Forecast:
    return read_record(Forecast, file, "a forecast")


def _hash_of(forecast: Forecast) -> str:
    return _digest({name: value for name, value in asdict(forecast).items() if name != "sha256"})


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
