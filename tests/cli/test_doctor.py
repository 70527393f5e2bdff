"""The checks of `archlab doctor` and their advice."""

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from archlab.cli import doctor
from archlab.cli.doctor import Finding


def found(name: str) -> Finding:
    return next(finding for finding in doctor.diagnose() if finding.name == name)


@pytest.fixture(autouse=True)
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "bfloat16_speedup", lambda device: 0.5)


def test_every_dependency_is_named_with_its_version() -> None:
    findings = {finding.name: finding for finding in doctor.diagnose()}
    assert findings["torch"].value == torch.__version__
    assert {"optuna", "safetensors", "omegaconf", "rich"} <= findings.keys()
    assert all(finding.status == "ok" or finding.advice for finding in findings.values())


def test_a_missing_dependency_is_a_problem_and_an_optional_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", _missing("optuna", "transformers"))
    assert found("optuna").status == "problem"
    assert "pip install 'optuna>=" in found("optuna").advice
    assert found("transformers").status == "note"


def _missing(*absent: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name in absent:
            raise PackageNotFoundError(name)
        return "1.0"

    return version


def test_what_the_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_cpp_compiler", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    monkeypatch.setattr(doctor, "available_memory", lambda device: 10**9)
    verdicts = {finding.name: finding.status for finding in doctor.diagnose()}
    assert (verdicts["C++ compiler"], verdicts["disk"], verdicts["memory"]) == ("note", "problem", "note")
    assert found("bfloat16").advice == "precision: auto trains in float32 here"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("OMP_WAIT_POLICY", "passive", "ok"), ("OMP_WAIT_POLICY", "active", "note"), ("GOMP_SPINCOUNT", "5", "note")],
)
def test_how_threads_wait(name: str, value: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, value)
    finding = doctor._idle_threads()
    assert (finding.status, f"{name}={value}" in finding.value) == (status, True)


def test_a_gpu_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert found("GPU").status == "problem"


def test_a_cache_that_cannot_be_made_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert found("compile cache").status == "problem"


def test_the_table_shows_text_with_brackets() -> None:
    console = Console(width=120, record=True, file=None)
    with console.capture() as captured:
        console.print(doctor.render([Finding("disk", "in /a[red]/b", "problem", "free [some]")]))
    assert "in /a[red]/b" in captured.get()
    assert "free [some]" in captured.get()
