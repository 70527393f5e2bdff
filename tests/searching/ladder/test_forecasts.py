"""Forecasts: chained, dated, and never changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archlab.errors import ArchlabError
from archlab.searching.ladder.forecasting import BY_LAW, BY_LOSS, Aim, draft_forecast
from archlab.searching.ladder.forecasts import ForecastDraft, read_forecasts, require_forecast, write_forecast
from archlab.searching.ladder.results import RunResult

DRAFT = ForecastDraft("val_loss", 1e6, 2e7, BY_LOSS, ["a", "b"], problem="too few")


def write(folder: Path) -> list[Path]:
    for rung in (2, 3):
        write_forecast(folder, rung, DRAFT, [{"loss": 1.0}])
    return sorted((folder / "forecasts").iterdir())


def test_a_forecast_is_written_once(tmp_path: Path) -> None:
    first = write_forecast(tmp_path, 2, DRAFT, [])
    assert write_forecast(tmp_path, 2, replace(DRAFT, ranking=["b", "a"]), []) == first
    assert first.written.endswith("+00:00")
    assert require_forecast(tmp_path, 2) == first


def test_each_forecast_names_the_one_before(tmp_path: Path) -> None:
    write(tmp_path)
    found = read_forecasts(tmp_path)
    assert list(found) == [2, 3]
    assert (found[2].former, found[3].former) == ("", found[2].sha256)


@pytest.mark.parametrize("change", [{"ranking": ["b", "a"]}, {"written": "2020-01-01T00:00:00+00:00"}, {"params": 2e6}])
def test_a_changed_forecast_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write(tmp_path)[0]
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArchlabError, match=f"{file.name}: was changed after it was written"):
        read_forecasts(tmp_path)


def test_a_missing_forecast_is_refused(tmp_path: Path) -> None:
    write(tmp_path)[0].unlink()
    with pytest.raises(ArchlabError, match=r"02_rung_3\.json: does not follow the forecast before it"):
        read_forecasts(tmp_path)
    with pytest.raises(ArchlabError, match="has no forecast of rung 4, which has been trained"):
        require_forecast(tmp_path / "other", 4)


@pytest.mark.parametrize("text", ["{}", "[]", '{"rung": 2, "rung": 3}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path)[0].write_text(text)
    with pytest.raises(ArchlabError, match="forecast"):
        read_forecasts(tmp_path)


def result(candidate: str, rung: int, params: int, loss: float, seed: int = 0) -> RunResult:
    return RunResult(rung, candidate, seed, 1.0, params, 20 * params, 1e9, loss)


def test_with_one_size_the_plain_ranking_is_the_forecast() -> None:
    results = [result("a", 1, 1000, 3.0), result("b", 1, 1000, 2.0)]
    draft = draft_forecast(results, ["a", "b"], Aim(2000, 4e4), {}, "val_loss")
    assert (draft.method, draft.ranking, draft.candidates) == (BY_LOSS, ["b", "a"], {})
    assert "size" in draft.problem


@pytest.mark.slow
def test_a_law_forecasts_each_candidate_at_its_own_size() -> None:
    # With 1 % more parameters, a candidate is expected to be a little better.
    law = {"a": (2.0, 100.0, 0.5), "b": (1.0, 50.0, 0.3)}
    sizes = [1000, 2000, 4000, 8000, 16000]
    results = [
        result(name, rung, n, (E + A / n**a) * (1 + 1e-4 * (-1) ** (seed + rung)), seed)
        for name, (E, A, a) in law.items()
        for rung, n in enumerate(sizes, 1)
        for seed in range(2)
    ]
    draft = draft_forecast(results, ["a", "b"], Aim(32000, 640000), {"a": 33600.0, "b": 32000.0}, "val_loss")
    figures = draft.candidates["a"]
    assert draft.method == BY_LAW
    assert isinstance(figures, dict)
    assert figures["forecast"] == pytest.approx(2 + 100 / 33600**0.5, rel=0.01)
    assert draft.ranking[0] == "a"
