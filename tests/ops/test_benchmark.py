"""Operations are measured with and without backends, and an unknown name is one line."""

import pytest
import torch

from archlab import ArchlabError
from archlab.cli.tables import benchmark_heading, benchmark_row
from archlab.ops import benchmark, benchmark_cases, dispatch
from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.gated_linear import gated_linear_reference
from archlab.ops.native import OPERATIONS as NATIVE
from archlab.ops.triton import OPERATIONS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_cases, "T", 64)
    monkeypatch.setattr(benchmark_cases, "D", 32)
    monkeypatch.setattr(benchmark, "COPY_SIZE", 2**16)


def test_every_operation_with_kernels_is_measured() -> None:
    assert set(benchmark.CASES) == {*NATIVE, *OPERATIONS}


@pytest.mark.parametrize("name", benchmark.CASES)
def test_both_directions_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, fullgraph: call)
    rows = list(benchmark.benchmark(name))
    assert [row.name for row in rows] == [f"{name}, forward", f"{name}, forward and back"]
    assert all(min(row.eager_s, row.compiled_s, row.roofline_s) > 0 for row in rows)
    assert all((row.seconds is None) == (row.speedup is None) == (not row.backend) for row in rows)
    lines = [*benchmark_heading().splitlines(), *map(benchmark_row, rows)]
    assert len(lines) == 5
    assert max(map(len, lines)) <= 79
    assert len({len(line) for line in lines[2:]}) == 1


def test_a_backend_for_inference_only_is_not_named_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, fullgraph: call)
    monkeypatch.setitem(dispatch._BACKENDS, ("gated_linear", "cpu"), gated_linear_reference)
    inference, training = benchmark.benchmark("gated_linear")
    assert (inference.backend, training.backend) == ("C++", "")


def test_an_unknown_name_is_one_line() -> None:
    with pytest.raises(ArchlabError, match="no operation 'diagonal_scn'; did you mean 'diagonal_scan'"):
        next(benchmark.benchmark("diagonal_scn"))


def test_the_pytorch_implementation_runs_where_a_backend_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch._BACKENDS, ("diagonal_scan", "cpu"), lambda *_: pytest.fail("the backend ran"))
    with dispatch.reference_only():
        y, _ = diagonal_scan(torch.ones(1, 3, 2), Decay(-torch.ones(2, 1), None), torch.ones(2, 1, 1), None)
    assert y.shape == (1, 3, 2)
    assert dispatch.find_backend("diagonal_scan", y) is not None
