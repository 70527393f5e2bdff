"""archlab fit: a CSV file to tables of 80 columns, or JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import archlab
from archlab.cli.fit_tables import fit_report
from archlab.cli.main import cli
from archlab.cli.terminal import SafeConsole

TARGET = "params=7e9,tokens=2e12"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rows = ["candidate,params,tokens,loss,note"]
    for name, E in (("megalodon", 1.60), ("gated_delta_net", 1.69)):
        for rung in range(4):
            for ratio in (5, 20):
                params = 1e6 * 3**rung
                wave = 1 + 0.003 * ((rung + ratio) % 3 - 1)  # noise without a generator
                loss = (E + 406 / params**0.34 + 410 / (params * ratio) ** 0.28) * wave
                rows.append(f"{name},{params},{params * ratio:g},{loss},x")
    file = tmp_path / "losses.csv"
    file.write_text("\n".join(rows))
    return file


@pytest.mark.slow
def test_json_and_tables_say_the_same(csv: Path) -> None:
    done = CliRunner().invoke(cli, ["fit", str(csv), "--to", TARGET, "--json"], catch_exceptions=False)
    data = json.loads(done.stdout)
    assert data["target"] == {"params": 7e9, "tokens": 2e12}
    first = data["candidates"][0]
    assert first["candidate"] == "megalodon"
    assert first["interval"][0] <= first["forecast"] <= first["interval"][1]
    assert set(first["law"]) == set(first["law_interval"]) == set("EAaBb")
    assert sum(one["probability_best"] for one in data["candidates"]) == pytest.approx(1)
    assert data["notes"][0] == "columns that are not read: note"
    assert len(data["backtest"]["held_out"]) == 2

    result = archlab.fit(csv, params=7e9, tokens=2e12)
    assert json.loads(json.dumps(result.to_dict())) == data
    console = SafeConsole(width=80, file=io.StringIO(), record=True)
    console.print(fit_report(result))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{first['forecast']:#.4g}" in text
    assert "plain ranking at the largest rung: megalodon, gated_delta_net" in text
    assert "…" not in text  # nothing is cut


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("param=7e9,tokens=2e12", "--to: there is no 'param'; did you mean 'params'?"),
        ("params=7e9", "--to: tokens is missing, as in params=7e9,tokens=2e12"),
        ("params=7e9,tokens=2T", "--to: tokens: '2T' is not a number"),
        ("params=7e9,tokens=-1", "--to: tokens: '-1' is not a number above 0"),
        ("params=7e9,params=7e9", "--to: params appears twice"),
        ("7e9", "--to: '7e9' is not NAME=NUMBER"),
    ],
)
def test_a_target_that_is_not_one(csv: Path, target: str, message: str) -> None:
    with pytest.raises(archlab.ArchlabError) as refused:
        CliRunner().invoke(cli, ["fit", str(csv), "--to", target], catch_exceptions=False)
    assert message in str(refused.value)


def test_two_points_are_refused_by_the_file(csv: Path) -> None:
    csv.write_text("\n".join(csv.read_text().splitlines()[:3]))
    with pytest.raises(archlab.ArchlabError, match="megalodon: has losses of one size only"):
        archlab.fit(csv, params=7e9, tokens=2e12)
