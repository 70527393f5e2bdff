"""A run's own files, damaged at random: each is refused by an error that names it, or read right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged_json
from safetensors.torch import load_file, save_file
from torch import nn

from archlab import ArchlabError
from archlab.reporting.format import describe_corpus, format_metrics
from archlab.searching.results.baseline import BaselineResult, read_baseline
from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary, read_summary
from archlab.storage.checkpoint import load_checkpoint, save_checkpoint
from archlab.storage.manifest import integrity_error, write_manifest
from archlab.storage.provenance import read_provenance
from archlab.storage.run_identity import read_run_identity
from archlab.training.metrics import MetricsLog, read
from archlab.training.metrics_file import read_kept

quickly = settings(
    max_examples=400 if THOROUGH else 60,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BPB = {"loss": 1.5, "bpb": 2.0}
SUMMARY = SearchSummary(
    search="s",
    objectives={"val_loss": "minimize"},
    trials={"complete": 2},
    best_trial=TrialSummary(1, {"train.lr": 0.1, "model": {"type": "stack"}}, BPB, BPB),
    baseline=BaselineSummary(BPB, "", BPB),
    pareto=[1],
    compressors={"xz": 1.0},
    validation_bytes=10,
    tokens_per_trial=20,
    corpus={"source": "a.txt", "bytes": {"train": 9, "test": 1}, "sha256": "ab"},
    machine={"cpu": "x", "cores": 2},
    versions={"torch": "2"},
)
PROVENANCE = {
    "step": 12,
    "versions": {"torch": "2"},
    "data": {"source": "a.txt", "bytes": {"train": 9}, "sha256": "ab"},
    "identity": {"run": "u", "experiment": "e", "data": "d"},
    "metrics_log": {"bytes": 10, "sha256": "ab"},
}


def refusal(use: Callable[[], object]) -> str:
    """Return the one line by which archlab refuses a file, or nothing if it reads it."""
    try:
        use()
    except ArchlabError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    return message


def use_provenance(file: Path) -> None:
    provenance = read_provenance(file)
    describe_corpus(provenance.get("data", {}))
    sorted(provenance.get("versions", {}).items())
    read_run_identity(file.parent)


def use_summary(file: Path) -> None:
    summary = read_summary(file.parent)
    assert summary is not None
    for part in (summary.best_trial, summary.baseline):
        if part is not None:
            format_metrics(part.validation)
    describe_corpus(summary.corpus)
    format(summary.validation_bytes, ",")


def use_baseline(file: Path) -> None:
    result = read_baseline(file.parent)
    assert result is not None
    format_metrics(result.metrics)
    result.reason.strip()


READERS: dict[str, tuple[Any, Callable[[Path], None]]] = {
    "provenance.json": (PROVENANCE, use_provenance),
    "summary.json": (SUMMARY, use_summary),
    "result.json": (BaselineResult(BPB), use_baseline),
    "run.json": ({"identity": PROVENANCE["identity"]}, lambda file: dict(read_run_identity(file.parent)) and None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@quickly
@given(data=st.data())
def test_a_json_file(tmp_path: Path, name: str, data: st.DataObject) -> None:
    valid, use = READERS[name]
    file = tmp_path / name
    text = json.dumps(valid, default=vars).encode()
    file.write_bytes(text)
    use(file)
    file.write_bytes(data.draw(damaged_json(text)))
    problem = refusal(lambda: use(file))
    assert not problem or problem.startswith(f"{file}: ")


@pytest.mark.slow
@quickly
@given(data=st.data())
def test_a_manifest(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "weights").write_bytes(b"123")
    (tmp_path / "code").write_bytes(b"12")
    for old in tmp_path.glob("manifest.json"):
        old.unlink()
    write_manifest(tmp_path, "model")
    valid = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(data.draw(damaged_json(valid)))
    problem = integrity_error(tmp_path)
    # An entry less, or another kind, is a manifest as well.
    assert problem is None or any(name in problem for name in ("manifest.json", "weights", "code", "missing"))


LINES = [{"step": n, "loss": 2.0, "lr": 0.1, "tokens_per_s": 10.0, "tokens": 8 * n} for n in (1, 2, 3)]
LINES.insert(2, {"step": 2, "val_loss": 2.0, "val_bpb": 3.0})


@pytest.mark.slow
@quickly
@given(data=st.data())
def test_metrics(tmp_path: Path, data: st.DataObject) -> None:
    with MetricsLog(tmp_path, tensorboard=False, resume_step=None) as log:
        for line in LINES:
            log.append(line)
        expected = log.summary()
    file = tmp_path / "metrics.jsonl"
    valid = file.read_bytes()
    lines, at = valid.splitlines(keepends=True), data.draw(st.integers(0, 3))
    lines[at] = data.draw(damaged_json(lines[at]))
    file.write_bytes(b"".join(lines))

    def use() -> None:
        for record in read(tmp_path):
            format_metrics({name: value for name, value in record.items() if name in LINES[0] or name in LINES[2]})

    problem = refusal(use)
    assert not problem or problem.startswith(f"{file}:{at + 1}") or "goes back" in problem
    if not file.read_bytes().startswith(valid):
        with pytest.raises(ArchlabError, match=r"metrics\.jsonl:"):
            read_kept(file, 3, expected)


@pytest.fixture
def saved(tmp_path: Path) -> dict[Path, bytes]:
    """The files of a checkpoint, from which each example starts."""
    return {file: file.read_bytes() for file in _checkpoint(tmp_path).iterdir()}


def _checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return save_checkpoint(folder, 1, model, optimizer, {"identity": {"run": "u"}}, keep=1)


def _resume(path: Path) -> None:
    """Load a checkpoint and make a step, which must not fail later for what was let in."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(1, 3)).sum().backward()
    problem = refusal(lambda: load_checkpoint(path, model, optimizer))
    assert not problem or str(path) in problem
    optimizer.step()
    torch.randn(2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
@quickly
@given(data=st.data())
def test_the_state_of_a_run(saved: dict[Path, bytes], data: st.DataObject) -> None:
    file = next(file for file in saved if file.name == "state.json")
    file.write_bytes(data.draw(damaged_json(saved[file])))
    _resume(file.parent)


ODD_TENSORS = {
    "missing": lambda tensor: None,
    "a scalar": lambda tensor: torch.tensor(1.0),
    "longer": lambda tensor: tensor.repeat(*[2] * max(1, tensor.dim())),
    "empty": lambda tensor: tensor.reshape(-1)[:0],
    "NaN": lambda tensor: tensor * torch.nan if tensor.is_floating_point() else tensor * 0,
    "infinite": lambda tensor: tensor.float() + torch.inf,
    "negative": lambda tensor: -tensor.float() - 1,
    "integers": lambda tensor: tensor.long(),
    "booleans": lambda tensor: tensor.bool(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.float().to(torch.float8_e4m3fn),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "flat": lambda tensor: tensor.reshape(-1),
}


@pytest.mark.slow
@quickly
@given(data=st.data())
def test_the_tensors_of_a_run(saved: dict[Path, bytes], data: st.DataObject) -> None:
    for file, content in saved.items():
        file.write_bytes(content)
    drawn = data.draw(st.sampled_from(["optimizer.safetensors", "rng.safetensors"]))
    file = next(file for file in saved if file.name == drawn)
    tensors = load_file(file)
    name = data.draw(st.sampled_from(sorted(tensors)))
    changed = ODD_TENSORS[data.draw(st.sampled_from(sorted(ODD_TENSORS)))](tensors.pop(name))
    key = data.draw(st.sampled_from([name, name, f"{name}.x", "exp_avg.", "weight", "cuda.x", "cuda.99", "max.weight"]))
    save_file(tensors | ({} if changed is None else {key: changed.contiguous()}), file)
    _resume(file.parent)


@pytest.mark.parametrize(
    ("provenance", "problem"),
    [
        ({"data": {"bytes": {"train": "9"}}}, r"the sizes of the data's splits are {'train': '9'}$"),
        ({"data": {"bytes": [9]}}, r"the sizes of the data's splits are \[9\]$"),
        ({"data": []}, r"data is not of its type, but \[\]$"),
        ({"step": 10**400}, "step is not of its type, but 1000"),
        ({"step": 1.5}, r"step is not of its type, but 1\.5$"),
        ({"step": True}, "step is not of its type, but True$"),
    ],
)
def test_a_provenance_of_other_types_is_named(tmp_path: Path, provenance: dict[str, Any], problem: str) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    assert "provenance.json: " in (said := refusal(lambda: read_provenance(tmp_path / "provenance.json")))
    assert re.search(problem, said)
