from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from archlab import interop
from archlab.config.train_config import TrainConfig
from archlab.training.lr_schedule import lr_multiplier
from archlab.training.optimizer import build_optimizer

GOLDEN = Path(__file__).parents[1] / "golden"
A = json.loads((GOLDEN / "manifest.json").read_text())["variants"]["A"]


def reference_settings() -> TrainConfig:
    of = A["train"]["optim"]
    return TrainConfig(
        steps=A["train"]["total_steps"],
        lr=of["lr"],
        warmup=of["warmup"],
        schedule=of["scheduler"],
        end_lr_ratio=of["lr_end_ratio"],
        weight_decay=of["weight_decay"],
        decay="all",
        beta1=of["beta1"],
        beta2=of["beta2"],
        eps=of["epsilon"],
        clip=of["clip"],
    )


@pytest.mark.slow
def test_the_training_of_the_reference() -> None:
    train, expected = reference_settings(), A["train"]
    weights = {name: t.double() for name, t in load_file(GOLDEN / "model_A.weights.safetensors").items()}
    model = interop.load("megalodon", A["config"], weights)
    tokens = load_file(GOLDEN / "model_A.golden.safetensors")[expected["tokens"]]
    optimizer = build_optimizer(model, train)
    for step in range(train.steps):
        loss = functional.cross_entropy(model(tokens)[0][:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), train.clip)
        for group in optimizer.param_groups:
            group["lr"] = train.lr * lr_multiplier(step, train)
            assert group["lr"] == pytest.approx(expected["lr"][step], rel=1e-12)
        assert loss.item() == pytest.approx(expected["loss_f64"][step], abs=1e-9)
        assert norm.item() == pytest.approx(expected["preclip_grad_norm"][step], abs=1e-9)
        optimizer.step()
        optimizer.zero_grad()


def test_decay_falls_on_matrices_or_on_all() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    model[0].bias.requires_grad_(False)
    matrices = build_optimizer(model, TrainConfig(decay="matrices", weight_decay=0.3)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in matrices] == [(1, 0.3), (2, 0.0)]
    every = build_optimizer(model, TrainConfig(decay="all", weight_decay=0.3)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in every] == [(3, 0.3)]
    only_vectors = build_optimizer(nn.LayerNorm(2), TrainConfig(decay="matrices")).param_groups
    assert [g["weight_decay"] for g in only_vectors] == [0.0]


def test_a_step_without_gradient_shows_the_decay() -> None:
    model = nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5, decay="matrices")).step()
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(model.bias.detach(), before[1], rtol=0, atol=0)
