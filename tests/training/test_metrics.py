"""metrics.jsonl holds each step once, whatever was interrupted."""

import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from archlab import ArchlabError
from archlab.training.metrics import MetricsLog, read


def write(folder: Path, steps: range, *, resume_step: int | None = None, tensorboard: bool = False) -> None:
    with MetricsLog(folder, tensorboard=tensorboard, resume_step=resume_step) as log:
        for step in steps:
            log.append({"step": step, "loss": 10.0 - step, "note": "x", "last": step == 4})


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False, resume_step=None)
    log.append({"step": 1, "loss": 0.1 + 0.2})
    assert read(tmp_path) == [{"step": 1, "loss": 0.1 + 0.2}]
    log.close()


def test_a_resumed_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, range(4, 5), resume_step=3)
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3, 4]


def test_a_new_log_begins_empty(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(0))
    assert read(tmp_path) == []


def test_resuming_at_zero_keeps_step_zero(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    write(tmp_path, range(0), resume_step=0)
    assert [record["step"] for record in read(tmp_path)] == [0]


def test_an_absent_log_has_no_records(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    write(tmp_path, range(1, 2), resume_step=7)
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}'])
def test_a_last_line_without_its_end_is_left_out(tmp_path: Path, torn: str) -> None:
    write(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [record["step"] for record in read(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["{", "[]", '{"loss": 1}', "", '{"step": null}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(ArchlabError, match=r"metrics\.jsonl:2: not a record of metrics"):
        read(tmp_path)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False, resume_step=None) as log:
        log.append({"step": 1, "loss": float("nan"), "grad": float("inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "loss": None, "grad": None}


def test_tensorboard_shows_the_resumed_run(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6), tensorboard=True)
    write(tmp_path, range(4, 5), resume_step=3, tensorboard=True)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(n, 10.0 - n) for n in (1, 2, 3, 4)]


def test_a_missing_tensorboard_is_explained_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(1, 3))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ArchlabError, match=r"pip install tensorboard, or set train\.tensorboard=false"):
        MetricsLog(tmp_path, tensorboard=True, resume_step=None)
    assert len(read(tmp_path)) == 2
