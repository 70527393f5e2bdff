from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from run_helpers import Recorder, curve, interrupt_at, same_weights

from archlab import ArchlabError
from archlab.config.experiment import load
from archlab.runtime.signals import defer_keyboard_interrupt
from archlab.storage import checkpoint
from archlab.training.trainer import train

KILLED = """
import os, signal, sys
from pathlib import Path
from archlab.config.experiment import load
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

class Killer(Callback):
    def on_step(self, record):
        if record["step"] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

train(load(sys.argv[1]), Path(sys.argv[2]), callbacks=[Killer()])
"""


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(
    tiny: Tiny, tiny_file: Path, tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, damaged, step = tmp_path / "run", tmp_path / "damaged", random.Random(0).randint(7, 11)
    killed = subprocess.run([sys.executable, "-c", KILLED, tiny_file, run, str(step)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (run / "final").exists()
    shutil.copytree(run, damaged)
    newest = checkpoint.latest_checkpoint(damaged / "checkpoints")
    assert newest is not None
    (newest / "optimizer.safetensors").write_bytes(b"torn")
    last = (step - 1) // 3 * 3
    for folder, start in ((run, last), (damaged, last - 3)):
        assert "damaged checkpoint skipped" not in caplog.text
        watch = Recorder()
        train(tiny(), folder, resume=True, callbacks=[watch])
        assert watch.starts == [start], f"killed at step {step}"
        assert curve(folder) == curve(whole)
        assert same_weights(folder, whole)
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert "damaged checkpoint skipped" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_ctrl_c_keeps_what_was_done(step: int, tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    run, rare = tmp_path / "run", ["train.checkpoint_every=0"]
    train(tiny(*rare), tmp_path / "rare")
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*rare), run, callbacks=[Recorder(interrupt_at(step))])
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{step:08d}"]
    watch = Recorder()
    train(tiny(*rare), run, resume=True, callbacks=[watch])
    assert watch.starts == [step]
    assert curve(run) == curve(whole), "the evaluation that was due at that step is made up for"
    assert same_weights(run, tmp_path / "rare")


@pytest.mark.slow
@pytest.mark.parametrize(("step", "note"), [(5, "was last saved at step 3"), (2, "nothing was saved")])
def test_a_second_ctrl_c_saves_nothing_more(step: int, note: str, tiny: Tiny, tmp_path: Path) -> None:
    def interrupt_twice(record: dict[str, Any]) -> None:
        if record["step"] == step:
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tiny("train.eval_every=0"), run, callbacks=[Recorder(interrupt_twice)])
    assert stopped.value.__notes__ == [f"{run}: {note}"]
    assert list(checkpoint.checkpoints(run / "checkpoints")) == [3] * (step > 3)


@pytest.mark.slow
def test_ctrl_c_does_not_cut_an_update_in_half(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(step(self, *args))
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "run")
    assert len(calls) == 5
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)
    assert same_weights(tmp_path / "run", whole)


def test_held_back_until_the_end_of_a_block() -> None:
    reached = []

    def work() -> None:
        with defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_stays() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        with defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_do(tiny: Tiny, whole: Path) -> None:
    before, watch = curve(whole), Recorder()
    result = train(tiny(), whole, resume=True, callbacks=[watch])
    assert watch.starts == [12]
    assert watch.steps == []
    assert curve(whole) == before
    assert result.metrics["val_loss"] == before[-1]["val_loss"]


@pytest.mark.slow
def test_resuming_what_never_began(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)
    shutil.rmtree(tmp_path / "run/checkpoints")
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_keeps_what_was_done(number: int, tiny: Tiny, tmp_path: Path) -> None:
    watch = Recorder(lambda record: signal.raise_signal(number) if record["step"] == 2 else None)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[watch])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000002"]
    assert caught.value.__notes__ == [f"{tmp_path / 'run'}: saved at step 2"]


def test_a_second_signal_ends_at_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, begun = checkpoint.write_tensors, []

    def slow(*arguments: Any) -> None:
        begun.append(save(*arguments))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    watch = Recorder(lambda record: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[watch])
    assert len(begun) == 1
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


@pytest.mark.slow
def test_metrics_that_a_checkpoint_does_not_know_are_refused(
    tiny: Tiny, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, before = whole / "metrics.jsonl", curve(whole)
    content = file.read_bytes()
    file.write_bytes(content + b'{"step": 12, "val_loss": 1.0}\n\0\0\n')
    train(tiny(), whole, resume=True)
    assert curve(whole)[:-1] == before, "torn lines after the checkpoint are dropped"
    for damaged, words in (
        (content[: content.index(b'"step": 9')], "ends after step 8, and the checkpoint of step 12 .*; restore it, or"),
        (content.replace(b'"lr": 0.01', b'"lr": 0.02'), "was changed, and the checkpoint of step 12"),
        (content.replace(b"{", b"[", 1), r"metrics\.jsonl:1: not a record"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ArchlabError, match=words):
            train(tiny(), whole, resume=True)
        assert file.read_bytes() == damaged
    file.unlink()
    train(tiny(), whole, resume=True)
    assert "metrics.jsonl: is missing; the run continues without the records up to step 12" in caplog.text
    assert [r["step"] for r in curve(whole)] == [12]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=0.5", "train.lr is 0.01 there and 0.5 here"),
        ("model.dim=64", "model.dim is 32 there and 64 here"),
        ("model.layers[0].mixer.ema=cema", r"model\.layers\[0\]\.mixer\.ema\.type is 'ema' there and 'cema' here"),
        ("train.precision=bfloat16", "train.precision is 'float32' there and 'bfloat16' here"),
    ],
)
def test_another_experiment_does_not_go_on(override: str, message: str, tiny: Tiny, whole: Path) -> None:
    before = curve(whole)
    with pytest.raises(ArchlabError, match=f"experiment.yaml: {message}; name another directory"):
        train(tiny(override), whole, resume=True)
    assert curve(whole) == before


@pytest.mark.slow
def test_auto_is_decided_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = ["train.precision=auto", "train.device=cpu", "train.compile=auto", "train.steps=2"]
    monkeypatch.setattr("archlab.training.step.resolve_precision", lambda precision, device: "bfloat16")
    train(tiny(*free), tmp_path / "run")
    decided = load(tmp_path / "run/experiment.yaml").train
    assert (decided.precision, decided.compile) == ("bfloat16", "off")
    monkeypatch.undo()
    train(tiny(*free), tmp_path / "run", resume=True)
    assert load(tmp_path / "run/experiment.yaml").train == decided


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{}", "train: 3", "a: [", ""])
def test_a_damaged_experiment_file_is_named(content: str, tiny: Tiny, whole: Path) -> None:
    (whole / "experiment.yaml").write_text(content)
    with pytest.raises(ArchlabError, match=r"experiment\.yaml: "):
        train(tiny("train.precision=auto"), whole, resume=True)
