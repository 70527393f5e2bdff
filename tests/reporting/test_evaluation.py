"""What a suite found is written as a page, as CSV and as JSON, and replaces nothing unasked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from archlab import ArchlabError, Curve, Estimate, SuiteResult
from archlab.reporting.evaluation import write_evaluation

POINTS = [(1024.0, Estimate(2.5, 2.25, 2.75, 8, 8192)), (2048.0, Estimate(2.0, None, None, 1, 8192))]
FOUND = SuiteResult(
    "context",
    {"targets": 8192, "data": "<the text>"},
    16384,
    (Curve("context", "Loss", "context, tokens", "loss, nats per token", "windows", POINTS, log=True),),
    {"accuracy": Estimate(0.5, 0.25, 0.75, 4, 4)},
    ("no context of 4,096 or more",),
    {"PG19": "its <books>"},
)


def test_a_page_csv_and_json(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "out", FOUND, "a <b>", force=False)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"index.html", "context.csv", "figures.csv", "result.json", "manifest.json"}
    rows = list(csv.reader((tmp_path / "out/context.csv").read_text().splitlines()))
    assert rows[0] == ["context", "value", "low", "high", "units", "count"]
    assert rows[1:] == [["1024", "2.5", "2.25", "2.75", "8", "8192"], ["2048", "2", "", "", "1", "8192"]]
    figures = (tmp_path / "out/figures.csv").read_text()
    assert figures == "figure,value,low,high,units,count\naccuracy,0.5,0.25,0.75,4,4\n"
    page = (tmp_path / "out/index.html").read_text()
    for part in (
        "a &lt;b&gt;: context",
        "no context of 4,096 or more",
        "&lt;the text&gt;",
        "accuracy",
        "windows",
        "its &lt;books&gt;",
    ):
        assert part in page
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["model"], result["curves"][0]["points"][1][1]["low"]) == ("a <b>", None)


def test_an_earlier_one_is_replaced_when_asked_and_a_strange_file_never(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "out", FOUND, "a", force=False)
    with pytest.raises(ArchlabError, match="overwrite it with --force"):
        write_evaluation(tmp_path / "out", FOUND, "b", force=False)
    write_evaluation(tmp_path / "out", FOUND, "b", force=True)
    assert json.loads((tmp_path / "out/result.json").read_text())["model"] == "b"
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ArchlabError, match=r"notes\.txt"):
        write_evaluation(tmp_path / "out", FOUND, "c", force=True)
