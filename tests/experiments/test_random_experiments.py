"""Random experiments, as a user would run them: counted, trained, interrupted, continued, streamed and exported."""

import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Write, seeds
from run_helpers import Recorder, curve, interrupt_at, same_weights
from torch.utils.flop_counter import FlopCounterMode

from archlab.config import experiment as config
from archlab.config.registry import names
from archlab.interop.exporting.export import export
from archlab.modeling.build import build, build_on_meta
from archlab.modeling.cost import estimate_cost
from archlab.modeling.loss import training_losses
from archlab.modeling.state import auxiliary_loss, find_training_sum, init_state, reserve_state, state_bytes
from archlab.storage.trained_model import load_trained
from archlab.testing.random_models import random_model
from archlab.testing.variation import draw_knobs
from archlab.training.trainer import train

FIXED = {"steps": 3, "warmup": 1, "checkpoint_every": 1, "eval_tokens": 64, "log_every": 1, "tensorboard": False}
FIXED |= {"device": "cpu", "precision": "float32", "compile": "off"}
pytestmark = pytest.mark.services


@cache
def draw(seed: int) -> dict[str, Any]:
    """Return a random model and optimizer, with batches and contexts of odd sizes."""
    rng = random.Random(seed)
    spec = random_model(rng, share=rng.choice((0.0, 0.2, 0.5))).spec()
    optimizer = rng.choice(names("optimizer"))
    sizes = {"batch_size": rng.randint(1, 3), "accumulate": rng.randint(1, 2), "context": rng.randint(5, 13)}
    settings = {
        "optimizer": {"type": optimizer} | draw_knobs("optimizer", optimizer, rng, share=0.3),
        "checkpoint_activations": rng.choice((False, True, "selective")),
        # A loss that a layer sums over all tokens would see the padding behind separate documents, and is refused.
        "documents": rng.choice(("joined", "separate" if find_training_sum(build_on_meta(spec)) is None else "joined")),
    }
    return {"name": "it", "model": spec.to_plain() | {"vocab_size": 256}, "train": FIXED | sizes | settings}


@pytest.fixture(params=seeds(2))
def file(request: pytest.FixtureRequest, write: Write, text: Path) -> Path:
    """The YAML file of a random experiment on a text of bytes."""
    return write(draw(request.param) | {"task": {"type": "text", "path": str(text), "eval_bytes": 256}})


def test_costs_are_those_of_the_model(file: Path) -> None:
    experiment = config.load(file, ["train.batch_size=1", "train.checkpoint_activations=false"])
    cost, model = estimate_cost(experiment), build(experiment.model).eval()
    tokens = torch.zeros(1, experiment.train.context, dtype=torch.int64)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.state_bytes == state_bytes(model(tokens)[1])
    if cost.max_state_bytes < 1e9:
        assert cost.max_state_bytes == state_bytes(reserve_state(model, init_state(model, 1)))
    with FlopCounterMode(display=False) as counter:
        total, further, state = training_losses(model.train(), tokens, tokens)
        (total + further + auxiliary_loss(state).sum()).backward()
    assert cost.flops_per_token == counter.get_total_flops() // experiment.train.context


def test_a_run_that_was_interrupted_is_the_run_that_was_not(file: Path, tmp_path: Path) -> None:
    train(config.load(file), tmp_path / "whole")
    assert all(math.isfinite(record["loss"]) for record in curve(tmp_path / "whole") if "loss" in record)
    with pytest.raises(KeyboardInterrupt):
        train(config.load(file), tmp_path / "run", callbacks=[Recorder(interrupt_at(2))])
    train(config.load(file), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_trained_model_streams_and_is_exported(file: Path, tmp_path: Path) -> None:
    train(config.load(file), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", ["standalone", "transformers"])  # which compares their logits
    model = load_trained(tmp_path / "run")[1].double().eval()
    tokens = torch.randint(256, (2, 13), generator=torch.Generator().manual_seed(1))
    state, pieces = None, []
    with torch.no_grad():
        for piece in tokens.split((1, 3, 5, 4), 1):
            logits, state = model(piece, state)
            pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), model(tokens)[0], rtol=1e-10, atol=1e-10)
