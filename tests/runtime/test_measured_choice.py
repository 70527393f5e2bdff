"""What is measured is chosen once for all processes: a second measurement may come out otherwise, a run may not."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from archlab.runtime import matmul_precision, measured_choice
from archlab.runtime.matmul_precision import DEFAULT, use_mode
from archlab.runtime.measured_choice import choose_once

CHOICES = ("slow", "fast")


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_choice, "usable_cache_dir", lambda name: tmp_path)
    monkeypatch.delenv("ARCHLAB_MATMUL_MODE")


def test_it_is_measured_once(tmp_path: Path) -> None:
    assert choose_once("way", CHOICES, lambda: "fast") == "fast"
    assert choose_once("way", CHOICES, lambda: "slow") == "fast"
    assert choose_once("other", CHOICES, lambda: "slow") == "slow"
    assert len(list(tmp_path.iterdir())) == 2


def test_all_who_measure_at_once_choose_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: choose_once("way", CHOICES, lambda: CHOICES[i % 2]), range(64)))
    assert len(set(found)) == 1


def test_a_slower_process_takes_what_another_has_stored_meanwhile(tmp_path: Path) -> None:
    def measure() -> str:
        choose_once("way", CHOICES, lambda: "fast")
        return "slow"

    assert choose_once("way", CHOICES, measure) == "fast"


def test_what_is_no_choice_is_measured_again(tmp_path: Path) -> None:
    choose_once("way", CHOICES, lambda: "fast")
    [file] = tmp_path.iterdir()
    file.write_bytes(b"\xff torn")
    assert choose_once("way", CHOICES, lambda: "slow") == "slow"
    assert choose_once("way", CHOICES, lambda: "fast") == "slow"


def test_where_nothing_can_be_kept_it_is_measured_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_choice, "usable_cache_dir", lambda name: tmp_path / "nowhere")
    assert [choose_once("way", CHOICES, lambda: each) for each in CHOICES] == ["slow", "fast"]  # noqa: B023


@pytest.mark.slow
def test_another_process_multiplies_in_the_same_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it measures that another mode is the fastest."""
    monkeypatch.setattr(matmul_precision, "fastest_exact_mode", lambda measured: "bf16")
    with use_mode(DEFAULT):  # so that this process continues with its own mode
        assert matmul_precision.select_matmul_precision.__wrapped__() == "bf16"
    code = """
import sys
from pathlib import Path
from archlab.runtime import matmul_precision, measured_choice
measured_choice.usable_cache_dir = lambda name: Path(sys.argv[1])
matmul_precision.fastest_exact_mode = lambda measured: "none"
print(matmul_precision.select_matmul_precision())
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "bf16\n"
