"""Models on a GPU, whose operations are Triton kernels, against the same models on the CPU."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import archlab
from archlab.config import experiment as config
from archlab.config.yaml_files import shipped_files
from archlab.modeling.build import build
from archlab.ops.dispatch import reference_only
from archlab.training.trainer import train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    # torch's compiler looks for a gradient of each input, and hides the warning of it from people alone (torch 2.11).
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

TINY = [name for name in shipped_files() if name.endswith("_tiny")]


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the outputs, and the gradients of a loss in which each of them counts differently."""
    model.eval()  # dropout draws other numbers on a GPU
    outputs = model(inputs)[0]
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    (outputs * weights.to(outputs.device)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), **found}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=str)
@pytest.mark.parametrize("name", TINY)
def test_a_model_computes_the_same_as_on_the_cpu(name: str, dtype: torch.dtype, tolerance: float) -> None:
    experiment = config.load(name)
    model = build(experiment.model, "cpu", seed=0)
    inputs = experiment.task.factory()().batch("train", 0, 2, experiment.train.context, 0)[0]
    on_gpu = copy.deepcopy(model).to("cuda", dtype)
    moved = inputs.to("cuda", dtype if inputs.is_floating_point() else None)
    with reference_only():
        want = gradients(model.double(), inputs.double() if inputs.is_floating_point() else inputs)
    # A gradient that is zero but for rounding, as that of a bias of keys, is compared with the others.
    least = 1e-3 * max(float(gradient.norm()) for gradient in want.values())
    for part, tensor in gradients(on_gpu, moved).items():
        error = (tensor.cpu().double() - want[part]).norm() / want[part].norm().clamp_min(least)
        assert error < tolerance, f"{part}: {error:.1e}"


SHORT = ["train.steps=6", "train.warmup=1", "train.eval_tokens=500", "train.tensorboard=false"]


@pytest.mark.parametrize("policy", ["off", "block"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(policy: str, tmp_path: Path) -> None:
    overrides = [*SHORT, "train.checkpoint_every=3", f"train.compile={policy}", "train.device=cuda"]
    experiment = config.load("megalodon_tiny", overrides)
    whole = train(experiment, tmp_path / "whole")

    class Stop(archlab.Callback):
        def on_step(self, record: Mapping[str, float]) -> None:
            if record["step"] == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "stopped", callbacks=[Stop()])
    resumed = train(experiment, tmp_path / "stopped", resume=True)
    assert resumed.metrics["val_loss"] == whole.metrics["val_loss"]


def test_what_was_trained_on_a_gpu_generates(tmp_path: Path) -> None:
    train(config.load("megalodon_tiny", [*SHORT, "train.device=cuda"]), tmp_path / "run")
    text = "".join(archlab.generate(tmp_path / "run", "def ", max_new_tokens=20))
    assert len(text) > 0
