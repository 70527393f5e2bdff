from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from archlab.runtime import measured_choice, mixed_precision
from archlab.runtime.mixed_precision import MIN_SPEEDUP, SIZES, bfloat16_speedup, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measured_choice, "usable_cache_dir", lambda name: tmp_path)
    bfloat16_speedup.cache_clear()
    yield
    bfloat16_speedup.cache_clear()


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_precision_other_than_auto_is_not_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mixed_precision, "bfloat16_speedup")
    assert resolve_precision(name, CPU) == name


@pytest.mark.parametrize(
    ("gain", "chosen"), [(0.5, "float32"), (MIN_SPEEDUP - 0.01, "float32"), (MIN_SPEEDUP, "bfloat16")]
)
def test_auto_is_bfloat16_if_it_is_fast_enough(gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "_matmul_times", lambda device_type, size: [gain, 1.0])
    assert resolve_precision("auto", CPU) == chosen


def test_the_large_matmul_is_skipped_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(mixed_precision, "_matmul_times", lambda device_type, size: sizes.append(size) or [0.1, 1.0])
    assert resolve_precision("auto", CPU) == "float32"
    assert set(sizes) == {SIZES[0]}


def test_a_device_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "SIZES", (16,))
    first = bfloat16_speedup("cpu")
    assert first > 0
    assert bfloat16_speedup("cpu") == first
