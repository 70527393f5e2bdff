"""Agreement with the equations of the model, computed step by step, for options without recorded numbers.

These are SwiGLU, shared and scaled embeddings, another RoPE base, several heads, and BERT initialization.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import interop

CONFIG = {
    "num_layers": 2,
    "model_dim": 24,
    "num_heads": 3,
    "z_dim": 12,
    "value_dim": 30,
    "ffn_hidden_dim": 20,
    "cema_ndim": 5,
    "chunk_size": 8,
    "norm_num_groups": 3,
    "vocab_size": 31,
    "swiglu": True,
    "share_emb": True,
    "scale_emb": True,
    "rope_base": 700.0,
    "init_mode": "bert",
    "norm_eps": 1e-3,
}


def shapes() -> dict[str, tuple[int, ...]]:
    D, Z, E, N, F_ = 24, 12, 30, 5, 20
    layer = {
        "mega.timenorm.weight": (D,),
        "mega.timenorm.bias": (D,),
        "mega.cema.alpha": (D, N, 1),
        "mega.cema.delta": (D, N, 1),
        "mega.cema.theta": (D, 1, 1),
        "mega.cema.gamma": (D, N, 2),
        "mega.cema.omega": (D, 1),
        "mega.rmsnorm.weight": (D,),
        "mega.wv.weight": (E, D),
        "mega.wv.bias": (E,),
        "mega.wz.weight": (Z, D),
        "mega.wz.bias": (Z,),
        "mega.wr.weight": (E, D),
        "mega.wr.bias": (E,),
        "mega.wh1.weight": (D, D),
        "mega.wh1.bias": (D,),
        "mega.wh2.weight": (D, E),
        "mega.gamma": (2, Z),
        "mega.beta": (2, Z),
        "nffn.norm.weight": (D,),
        "nffn.norm.bias": (D,),
        "nffn.fc1.weight": (F_, D),
        "nffn.fc2.weight": (D, F_),
        "nffn.fc3.weight": (F_, D),
    }
    ends = {"embed.weight": (31, D), "output.final_norm.weight": (D,), "output.final_norm.bias": (D,)}
    return ends | {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes().items()}
    return {name: 0.3 * tensor for name, tensor in drawn.items()}


def timestep_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    groups = x.unflatten(-1, (3, -1))
    rows = []
    for t in range(x.shape[1]):
        past = groups[:, : t + 1]
        mean, var = past.mean((1, 3)), past.var((1, 3), correction=0)
        rows.append(((groups[:, t] - mean[..., None]) / (var[..., None] + 1e-3).sqrt()).flatten(-2))
    return torch.stack(rows, 1) * (1 + w) + b


def cema(u: Tensor, w: dict[str, Tensor]) -> Tensor:
    p = torch.sigmoid(w["alpha"][..., 0])
    angle = torch.sigmoid(w["theta"][..., 0]) * torch.arange(1, 6) * (2 * math.pi / 5)
    q = torch.polar(1 - p * torch.sigmoid(w["delta"][..., 0]), angle)
    eta = torch.view_as_complex(w["gamma"]) / math.sqrt(5)
    h, rows = torch.zeros(u.shape[0], 24, 5, dtype=torch.complex128), []
    for t in range(u.shape[1]):
        h = q * h + p * u[:, t, :, None]
        rows.append((eta * h).sum(-1).real + w["omega"][:, 0] * u[:, t])
    return torch.stack(rows, 1)


def rotate(x: Tensor, position: int) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    angle = position * 700.0 ** (-torch.arange(2, dtype=torch.float64) / 2)
    return torch.view_as_real(pairs * torch.polar(torch.ones(2, dtype=torch.float64), angle)).flatten(-2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for t in range(q.shape[1]):
        start = t - t % 8
        keys = torch.stack([rotate(k[:, s], s - start) for s in range(start, t + 1)], 1)
        scores = torch.einsum("bhk,bshk->bhs", rotate(q[:, t], t - start), keys)
        rows.append(torch.einsum("bhs,bshv->bhv", scores.softmax(-1), v[:, start : t + 1]))
    return torch.stack(rows, 1).flatten(-2)


def mega(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    u = timestep_norm(x, w["timenorm.weight"], w["timenorm.bias"])
    c = cema(u, {name.removeprefix("cema."): value for name, value in w.items() if name.startswith("cema.")})
    m = c * (c.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * (1 + w["rmsnorm.weight"])
    z = F.linear(m, w["wz.weight"], w["wz.bias"]).unflatten(-1, (3, 4))
    z = (z * (z.square().mean(-1, keepdim=True) + 1e-3).rsqrt()).flatten(-2)
    q, k = ((z * (1 + w["gamma"][i]) / 2 + w["beta"][i]).unflatten(-1, (3, 4)) for i in (0, 1))
    v = F.silu(F.linear(u, w["wv.weight"], w["wv.bias"])).unflatten(-1, (3, 10))
    gated = attention(q, k, v) * F.silu(F.linear(m, w["wr.weight"], w["wr.bias"]))
    return x + F.linear(m, w["wh1.weight"], w["wh1.bias"]) + gated @ w["wh2.weight"].T


def ffn(y: Tensor, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    n = F.layer_norm(y, (24,), 1 + w["norm.weight"], w["norm.bias"], 1e-3)
    return x + (F.silu(n @ w["fc1.weight"].T) * (n @ w["fc3.weight"].T)) @ w["fc2.weight"].T


def logits_of(tokens: Tensor, weights: dict[str, Tensor]) -> Tensor:
    x = weights["embed.weight"][tokens] * math.sqrt(24)
    for i in range(2):
        parts = {n.removeprefix(f"layers.{i}."): t for n, t in weights.items() if n.startswith(f"layers.{i}.")}
        inner = {n.removeprefix("mega."): t for n, t in parts.items() if n.startswith("mega.")}
        outer = {n.removeprefix("nffn."): t for n, t in parts.items() if n.startswith("nffn.")}
        x = ffn(mega(x, inner), x, outer)
    normed = timestep_norm(x, weights["output.final_norm.weight"], weights["output.final_norm.bias"])
    return normed @ weights["embed.weight"].T


@pytest.mark.parametrize("length", [1, 7, 8, 21])
def test_logits_and_gradients(weights: dict[str, Tensor], length: int) -> None:
    tokens = torch.randint(0, 31, (2, length), generator=torch.Generator().manual_seed(length))
    model = interop.load("megalodon", CONFIG, weights)
    logits, _ = model(tokens)
    for tensor in weights.values():
        tensor.requires_grad_()
    expected = logits_of(tokens, weights)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    for output in (logits, expected):
        output.square().mean().backward()
    parameters = interop.names("megalodon", model)
    assert parameters["output.output.weight"] is parameters["embed.weight"]
    for name, tensor in weights.items():
        torch.testing.assert_close(parameters[name].grad, tensor.grad, rtol=1e-9, atol=1e-10, msg=name)


def test_the_vocabulary_may_be_left_to_the_embedding(weights: dict[str, Tensor]) -> None:
    config = {name: value for name, value in CONFIG.items() if name != "vocab_size"}
    assert interop.load("megalodon", config, weights).vocab_size == 31
