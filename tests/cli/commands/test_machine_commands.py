from __future__ import annotations

import pytest

from archlab.ops import benchmark
from archlab.ops.benchmark import BenchmarkResult


@pytest.mark.slow
def test_doctor(run) -> None:
    done = run("doctor")
    assert done.status == 0
    assert "Python" in done.out
    assert "memory" in done.out


def test_bench_prints_each_operation_when_it_is_measured(run, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        BenchmarkResult("ema", "C++", 0.001, 0.008, 0.004, 0.0005),
        BenchmarkResult("ema, forward and back", "", None, 0.02, 0.01, 0.001),
    ]
    monkeypatch.setattr(benchmark, "benchmark", lambda operation: iter(results))
    done = run("bench")
    assert done.status == 0
    title, _, heads, *rows = done.out.splitlines()
    assert title.startswith("ms, float32, ")
    assert heads.split() == ["operation", "by", "time", "eager", "compiled", "roofline", "speedup"]
    assert [row.split() for row in rows] == [
        ["ema", "C++", "1.00", "8.00", "4.00", "0.50", "4.0"],
        ["ema,", "forward+back", "20.00", "10.00", "1.00"],
    ]
    unknown = run("bench", "slstn")
    assert (unknown.status, unknown.out) == (2, "")
    assert unknown.err.startswith("archlab: no operation 'slstn'; did you mean 'slstm'?")
