"""Agreement with numbers that the reference implementation of Megalodon computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from archlab import ArchlabError, interop

GOLDEN = Path(__file__).parent.parent / "golden"
VARIANTS = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
FULL = [("A", 48), ("A", 16), ("A", 11), ("D", 48), ("D", 11)]
TOLERANCE = {"f32": 1e-5, "f64": 1e-10}


def load(variant: str, kind: str):
    weights = load_file(GOLDEN / f"model_{variant}.weights.safetensors")
    if kind == "f64":
        weights = {name: t.double() if t.is_floating_point() else t for name, t in weights.items()}
    model = interop.load("megalodon", VARIANTS[variant]["config"], weights)
    return model, load_file(GOLDEN / f"model_{variant}.golden.safetensors")


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize(("variant", "length"), FULL)
def test_logits_loss_and_every_gradient(variant: str, length: int, kind: str) -> None:
    model, golden = load(variant, kind)
    tokens = golden[f"full{length}.tokens"]
    logits, _ = model(tokens)
    torch.testing.assert_close(logits, golden[f"full{length}.logits.{kind}"], rtol=0, atol=TOLERANCE[kind])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, golden[f"full{length}.loss.{kind}"][0], rtol=0, atol=TOLERANCE[kind])
    loss.backward()
    parameters = interop.names("megalodon", model)
    stored = {k.split(".grad.")[1]: v for k, v in golden.items() if k.startswith(f"full{length}.grad.")}
    assert set(stored) <= set(parameters)
    for name, expected in stored.items():
        error = (parameters[name].grad - expected).norm() / expected.norm()
        assert error < 1e-5 if kind == "f32" else error < 1e-7, name  # stored rounded to float32


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize(("variant", "length"), FULL)
def test_gradient_norms(variant: str, length: int, kind: str) -> None:
    model, golden = load(variant, kind)
    tokens = golden[f"full{length}.tokens"]
    F.cross_entropy(model(tokens)[0][:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in interop.names("megalodon", model).items():
        expected = VARIANTS[variant]["full"][str(length)]["grad_norm_f64"][name]
        assert float(parameter.grad.double().norm()) == pytest.approx(expected, rel=TOLERANCE[kind]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("calls", ["recorded", "token by token", "across blocks"])
def test_decoding(calls: str, kind: str) -> None:
    model, golden = load("A", kind)
    tokens, expected = golden["decode.tokens"], golden["decode.logits.f64"]
    lengths = {
        "recorded": golden["decode.calls"].tolist(),
        "token by token": [1] * 68,
        "across blocks": [7, 30, 1, 20, 10],
    }[calls]
    assert sum(lengths) == 68
    state, outputs = model.reserve_state(model.init_state(2), None), []
    sizes = {name: tensor.shape for name, tensor in state.items()}
    with torch.no_grad():
        for part in tokens.split(lengths, dim=1):
            logits, state = model(part, state)
            outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, 1).double(), expected, rtol=0, atol=TOLERANCE[kind])
    assert {name: tensor.shape for name, tensor in state.items()} == sizes


def test_long_stream_without_truncation() -> None:
    model, golden = load("A", "f64")
    tokens, targets = golden["inference.tokens"], golden["inference.targets"]
    with torch.no_grad():
        logits, _ = model(tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(loss, golden["inference.loss_no_truncation.f64"].flatten(), rtol=0, atol=1e-10)


def test_wrong_fields_and_tensors_are_named() -> None:
    weights = load_file(GOLDEN / "model_A.weights.safetensors")
    config = VARIANTS["A"]["config"]
    with pytest.raises(ArchlabError, match=r"cema_dims.*did you mean 'cema_ndim'"):
        interop.load("megalodon", config | {"cema_dims": 4}, weights)
    with pytest.raises(ArchlabError, match=r"layers.0.mega.wv.weight.* is missing"):
        interop.load("megalodon", config, {k: v for k, v in weights.items() if k != "layers.0.mega.wv.weight"})
    with pytest.raises(ArchlabError, match=r"embed.weight: shape \(96, 64\) is not \(97, 64\)"):
        interop.load("megalodon", config, weights | {"embed.weight": torch.zeros(96, 64)})
    with pytest.raises(ArchlabError, match=r"tensor 'embed\.weight' is missing"):
        interop.load("megalodon", config, {k: v for k, v in weights.items() if k != "embed.weight"})
    with pytest.raises(ArchlabError, match=r"init_mode 'xaviar' is not one of .*xavier"):
        interop.load("megalodon", config | {"init_mode": "xaviar"}, weights)
    assert interop.systems() == ["megalodon"]
    with pytest.raises(ArchlabError, match="did you mean 'megalodon'"):
        interop.load("megalodont", config, weights)
