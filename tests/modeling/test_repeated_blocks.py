from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from archlab.config import experiment
from archlab.modeling import step_recorder, step_trace
from archlab.modeling.backbone import iter_blocks
from archlab.modeling.build import validate
from archlab.modeling.repeated_blocks import skip_repeated_blocks
from archlab.ops import linear_cross_entropy

DEEP = ["model.layers[0].repeat=5", "train.batch_size=2", "train.context=32"]
NAMES = ["megalodon_tiny", "llama2_tiny", "mamba_tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", ["false", "true", "selective"])
@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_running_every_block(name: str, checkpointed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = experiment.load(name, [*DEEP, f"train.checkpoint_activations={checkpointed}"])
    counted_once = step_trace.trace_step(deep)
    monkeypatch.setattr(step_trace, "skip_repeated_blocks", lambda *_: nullcontext([]))
    assert counted_once == step_trace.trace_step(deep)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", ["false", "true"])
@pytest.mark.parametrize("name", ["llama2_tiny", "rwkv7_tiny"])
def test_costs_of_a_value_residual_are_those_of_every_block(
    name: str, checkpointed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["model.layers[0].mixer.value_residual=true", f"train.checkpoint_activations={checkpointed}"]
    deep = experiment.load(name, [*DEEP, *overrides])
    counted_once = step_trace.trace_step(deep)
    monkeypatch.setattr(step_trace, "skip_repeated_blocks", lambda *_: nullcontext([]))
    assert counted_once == step_trace.trace_step(deep)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [513, 1100])
def test_costs_are_those_of_running_every_chunk_of_the_loss(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cross_entropy, "MAX_CHUNK_LOGITS", 1)  # so that chunks are of 256 tokens
    sizes = ["train.batch_size=1", f"train.context={rows}", "model.vocab_size=40000", "model.layers[0].repeat=1"]
    wide = experiment.load("llama2_tiny", [*sizes, "model.layers[*].mixer.attention.window_size=2048"])
    counted_once = step_trace.trace_step(wide)
    monkeypatch.setattr(step_recorder, "trace_loops", lambda loop: nullcontext())
    assert counted_once == step_trace.trace_step(wide)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("residual", "num_run"),
    [
        ("two_hop", 2),
        ("{type: two_hop, rescale: true}", 5),  # every layer starts at a scale of its own
    ],
)
def test_two_of_a_run_of_identical_blocks_are_run(residual: str, num_run: int) -> None:
    model = validate(experiment.load("megalodon_tiny", [*DEEP, f"model.layers[0].residual={residual}"]))
    run: list[str] = []
    with torch.no_grad(), skip_repeated_blocks(model) as skipped:
        for block in iter_blocks(model):
            block.get_submodule("mixer").register_forward_hook(lambda *_: run.append("mixer"))
        model(torch.zeros(1, 8, dtype=torch.int64, device="meta"))
    assert (len(run), len(skipped)) == (num_run, 5 - num_run)
    assert not any("forward" in vars(block) for block in iter_blocks(model))


class Between(nn.Module):
    """Layers with a number added between them."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            x = x + self.number if self.number else x
        return x


@pytest.mark.parametrize(("number", "count"), [(0.0, 3), (1.0, 0)])
def test_a_block_that_reads_something_else_than_the_one_before_gave_is_run(number: float, count: int) -> None:
    model, x = Between(number), torch.randn(2, 3)
    expected = model(x)
    with skip_repeated_blocks(model) as skipped:
        y = model(x)
    assert len(skipped) == count
    assert torch.equal(y, expected) is (count == 0)
