"""The benchmarks' own parts run; what they measure is for a quiet machine."""

import ctypes
import os
import runpy
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import needs_compiler

from archlab.modeling.step_recorder import StepRecorder
from archlab.ops import dispatch
from archlab.ops.dispatch import use_backends
from archlab.ops.native import OPERATIONS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_learns_the_tokens_that_it_repeats(precision: str) -> None:
    from _models import MEGALODON, ours, tokens, training_step

    step = training_step(ours("megalodon_tiny", MEGALODON, "off"), tokens(16, 1), precision=precision)
    losses = [step() for _ in range(4)]
    assert losses[-1] < losses[0] - 0.1


def test_the_megalodon_has_the_size_that_it_is_said_to_have() -> None:
    from _models import MEGALODON, ours

    assert sum(p.numel() for p in ours("megalodon_tiny", MEGALODON, "off").parameters()) == 3_750_912


@pytest.mark.parametrize("name", ["llama", "mamba", "rwkv"])
def test_the_peers_are_of_like_size(name: str) -> None:
    pytest.importorskip("transformers", reason="the peers are its models")
    from _models import ours
    from transformers_step import SYSTEMS

    experiment, overrides, peer, *_ = SYSTEMS[name]
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours(experiment, overrides, "off"), peer(64))]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_steps_are_interleaved_and_the_best_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from _measure import Row, best_seconds

    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr("gc.collect", lambda: None)  # of all that other tests have left: a second each

    def step(name: str, durations: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock[0] += next(durations)

        return run

    seconds = best_seconds(step("slow", iter([0.0, 9.0, 7.0])), step("fast", iter([9.0, 2.0, 3.0])), rounds=2)
    assert order == ["slow", "fast"] * 3
    assert seconds[0] > seconds[1]
    assert seconds == [7.0, 2.0]
    assert Row("", 6.0, 3.0, "").ratio == 2


def settings_elsewhere() -> Callable[[], tuple[str | None, str | None]]:
    return lambda: (os.environ.get("THP_MEM_ALLOC_ENABLE"), os.environ.get("ARCHLAB_TUNE"))


@pytest.mark.slow
def test_a_peer_has_an_environment_that_archlab_has_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    from _measure import ENVIRONMENT, in_subprocess

    monkeypatch.delitem(ENVIRONMENT, "THP_MEM_ALLOC_ENABLE", raising=False)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "of this process")
    with in_subprocess(settings_elsewhere) as step:
        assert step() == step() == (None, "off")
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "of this process"


@pytest.mark.slow
def test_memory_is_measured_in_a_process_that_has_held_nothing_else() -> None:
    from _measure import in_own_process
    from length import _megabytes

    held = bytearray(b"1" * 2**29)  # written to, so that it counts
    assert _megabytes() > len(held) / 1e6
    assert in_own_process(_megabytes) < _megabytes() - 0.9 * len(held) / 1e6


@pytest.mark.slow
def test_a_stream_of_few_chunks_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import length

    monkeypatch.setattr(length, "CHUNK", 64)
    monkeypatch.setattr(length, "megalodon", lambda: length.ours("megalodon_tiny", length.MEGALODON, "off"))
    megabytes = length.memory_of_stream(256)
    assert len(megabytes) == 4
    assert all(one > 50 for one in megabytes)


def test_a_decoding_step_starts_each_time_from_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="imported beside its peers")
    import decoding
    from _models import LLAMA, ours

    starts = []

    class Recorder(decoding.Decoder):
        def __call__(self, tokens: object) -> None:
            starts.append(int(self.state["position"]))
            self.state["position"].add_(1)

    monkeypatch.setattr(decoding, "Decoder", Recorder)
    monkeypatch.setattr(decoding, "NUM_TOKENS", 3)
    step = decoding.decode(ours("llama2_tiny", LLAMA, "off"))
    step()
    step()
    assert starts == [0, 1, 2, 0, 1, 2]


@pytest.mark.skipif(find_spec("megalodon_jax") is not None, reason="the peer is installed")
def test_a_missing_peer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "megalodon_step.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert "pip install" in error


@pytest.mark.slow
def test_products_are_those_of_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from _models import MEGALODON, ours, tokens, training_step
    from megalodon_step import products
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as alone:
        products(512)()
    step = training_step(ours("megalodon_tiny", MEGALODON, "off"), tokens(512, 1))
    monkeypatch.delitem(dispatch._BACKENDS, ("causal_attention", "cpu"), raising=False)  # what is C++ is not counted
    with FlopCounterMode(display=False) as whole:
        step()
    every = whole.get_flop_counts()["Global"]
    in_products = sum(flops for operation, flops in every.items() if not str(operation).startswith("archlab."))
    assert alone.get_total_flops() == pytest.approx(in_products, rel=0.05)


@pytest.mark.parametrize("name", ["mlp", "moe"])
def test_a_layer_is_compared_with_all_products_that_it_makes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import products

    monkeypatch.setattr(products, "TOKENS", 32)
    step = products.training_call(products.layer_of("ffn", name, 16), 16)
    recorded = products.record(step)
    assert flops_of(recorded.run) == flops_of(step) > 0


def flops_of(call: Callable[[], None]) -> int:
    with StepRecorder() as recorder:
        call()
    return sum(operation.flops for operation in recorder.ops())


@pytest.mark.parametrize("native", [False, True], ids=["pytorch", "native"])
def test_causal_attention_is_compared_with_six_products_of_half_of_its_pairs(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import products

    if native and not OPERATIONS["causal_attention"].is_available():
        pytest.skip("no C++ backends")
    monkeypatch.setattr(products, "TOKENS", 64)
    backends = {("causal_attention", "cpu"): OPERATIONS["causal_attention"].causal_attention}
    with use_backends(backends if native else {}):
        recorded = products.record(products.training_call(products.layer_of("mixer", "attention", 32), 32))
    in_projections = 4 * 3 * 2 * 64 * products.DIM**2
    assert flops_of(recorded.run) == in_projections + 6 * 2 * 64 * 16 * products.DIM


def test_a_layer_far_above_its_products_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    from products import cells, print_row

    print_row("mixer", "gated_delta_product", cells([0.1, 0.39, 0.41]))
    print_row("ffn", "none", cells([]))
    marked, without = capsys.readouterr().out.splitlines()
    assert marked.split() == ["mixer", "gated_delta_product", "100.0", "390.0", "3.90", "410.0", "4.10*"]
    assert without.split() == ["ffn", "none", "none"]
    assert len(marked) <= 80


@needs_compiler
def test_the_peak_counts_what_it_does() -> None:
    from peak import _library

    steps, total = 1000, ctypes.c_float()
    flops = _library().peak(ctypes.c_long(steps), ctypes.c_float(0.5), ctypes.byref(total))
    assert total.value > 0
    assert flops == total.value * 2 * steps, "each sum has come to 1, by one multiply-add a step"
