"""metrics.jsonl holds each step once, whatever was interrupted."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from archlab import ArchlabError
from archlab.training.metrics import MetricsLog, read
from archlab.training.metrics_file import read_kept


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


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('{"step": 4}\n{"step": 3}\n', r"metrics\.jsonl:2: goes back from step 4 to 3"),
        ('{"step": 1, "loss": [1]}\n', r"metrics\.jsonl:1: loss is \[1\] and not a finite number"),
        ('{"step": 1, "note": {"a": 1}}\n', r"metrics\.jsonl:1: note is not one value"),
    ],
)
def test_a_record_that_no_run_writes_is_named(tmp_path: Path, lines: str, problem: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(lines)
    with pytest.raises(ArchlabError, match=problem):
        read(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file of Linux that is there and unreadable")
def test_a_log_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(ArchlabError, match=r"metrics\.jsonl: cannot be read: Input/output error"):
        read(tmp_path)


def test_the_lines_before_a_checkpoint_are_whole_whatever_it_knows_of_them(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(ArchlabError, match=r"metrics\.jsonl:2: not a record of metrics"):
        read_kept(file, 3, None)  # as of archlab 0.1
    for expected in ({"sha256": "0"}, "whole"):
        with pytest.raises(ArchlabError, match="the checkpoint of step 3 does not have its size and checksum"):
            read_kept(file, 3, expected)  # type: ignore[arg-type]
    first = hashlib.sha256(b'{"step": 1}\n').hexdigest()
    assert read_kept(file, 3, {"bytes": 12, "sha256": first}) == b'{"step": 1}\n'


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
