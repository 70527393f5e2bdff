"""The command runs lm-eval's tasks, and lists what it cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.services


@pytest.fixture
def task_files(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = "".join(json.dumps({"text": f"{n} times {n} is", "right": n % 2}) + "\n" for n in range(6))
    (folder / "rows.jsonl").write_text(rows)
    task = {
        "test_split": "test",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "right",
        "doc_to_choice": ["4", "9"],
    }
    for name in ("of_two", "of_two_again"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "task": name}))
    mean = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "both", "task": ["of_two", "of_two_again"], "aggregate_metric_list": mean}
    (folder / "both.yaml").write_text(yaml.safe_dump(group))
    return folder


def test_a_task_of_ones_own(run, trained: Path, task_files: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    asked = ["--tasks", "both", "--task-files", str(task_files), "--limit", "5", "--out", str(out)]
    done = run("eval", str(trained), "--suite", "lm-eval", *asked)
    assert done.status == 0, done.err
    assert "of_two acc" in done.out
    assert " read\n" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines()[:-1])
    result = json.loads((out / "result.json").read_text())
    one, both = result["figures"]["of_two acc"], result["figures"]["both acc"]
    assert (one["units"], both["units"], both["value"]) == (5, 10, one["value"])
    assert result["settings"]["examples_before_a_question"] == "0"
    assert (out / "figures.csv").read_text().startswith("figure,value,low,high,units,count\nboth acc,")
    other = run("eval", str(trained), "--suite", "lm-eval", "--text", str(task_files / "rows.jsonl"))
    assert (other.status, "the suite lm-eval takes no --text" in other.err) == (2, True)


def test_what_is_not_at_hand_is_listed(
    run, trained: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = tmp_path / "found"
    done = run("eval", str(trained), "--suite", "megalodon-paper", "--text", str(text), "--out", str(out))
    assert (done.status, done.err) == (0, "")
    assert "Loss by context length" in done.out
    assert "the data set cais/mmlu, which neither the network" in done.out
    assert all(len(line) <= 110 for line in done.out.splitlines()[:-1])
    missing = json.loads((out / "result.json").read_text())["missing"]
    assert {"mmlu", "boolq", "arc_easy", "triviaqa", "scrolls_qasper", "ruler", "babilong", "PG19"} <= set(missing)
    assert "figure 5" not in missing
    assert all(missing.values())
