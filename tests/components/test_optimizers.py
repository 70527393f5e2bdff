"""Each optimizer makes the updates of torch's own, or of the paper's equations in a loop in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archlab import ConfigError, Param, register
from archlab.config.experiment import load
from archlab.config.parallel import Layout
from archlab.config.registry import names
from archlab.config.train_config import TrainConfig, parse_train
from archlab.modeling.build import build, validate
from archlab.modeling.optimizer import TRAINED, at_average, leave_average, optimizer_bytes
from archlab.parallel.check_layout import require_fit
from archlab.training.optimizer import build_optimizer

STEPS = 7


PARAMS = {
    "tall": Param("hidden"),
    "wide": Param("hidden"),
    "square": Param("hidden"),
    "experts": Param("hidden", fan_out=1),
    "turned": Param("hidden", fan_in=0, fan_out=1),
    "table": Param("input"),
    "readout": Param("output"),
    "bias": Param("vector"),
}


class Matrices(nn.Module):
    """Parameters of every role in odd shapes, whose gradients are what a test says."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        shapes = {
            "tall": (13, 5),
            "wide": (5, 11),
            "square": (4, 4),
            "experts": (3, 7, 4),
            "turned": (4, 9),
            "table": (17, 5),
            "readout": (3, 5),
            "bias": (13,),
        }
        generator = torch.Generator().manual_seed(1)
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            self.register_parameter(name, nn.Parameter(values))


@pytest.fixture(autouse=True)
def declared() -> None:
    """Have `Matrices` registered in each test, and not when all of them are collected, which try every ffn."""
    register("ffn", "matrices", params=PARAMS)(Matrices)


def gradient(parameter: Tensor, step: int) -> Tensor:
    return torch.sin(3 * parameter.detach() + step) * 0.1


def run(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for step in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = gradient(parameter, step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.step()


def rate(step: int) -> float:
    return 0.01 * min(1.0, (step + 1) / 3)


def train_of(optimizer: str, **knobs: Any) -> TrainConfig:
    given = {"weight_decay": 0.3, "decay": "all", "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}
    return parse_train({**given, "optimizer": {"type": optimizer, **knobs}})


def test_adamw_is_torchs() -> None:
    model, other = Matrices(), Matrices()
    run(model, build_optimizer(model, train_of("adamw")))
    run(other, torch.optim.AdamW(other.parameters(), betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_adafactor_is_torchs() -> None:
    model, other = Matrices(), Matrices()
    own = {"decay_power": -0.6, "clip_threshold": 1.5, "smallest_scale": 0.01}
    run(model, build_optimizer(model, train_of("adafactor", **own)))
    its = torch.optim.Adafactor(other.parameters(), beta2_decay=-0.6, d=1.5, eps=(None, 0.01), weight_decay=0.3)
    run(other, its)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_for_matrices_and_adamw_for_all_else(adjust_lr_fn: str, nesterov: bool) -> None:
    own = {"momentum": 0.9, "nesterov": nesterov, "ns_steps": 4, "adjust_lr_fn": adjust_lr_fn}
    model, other = Matrices(), Matrices()
    run(model, build_optimizer(model, train_of("muon", **own)))
    # torch's takes matrices [outputs, inputs], and one at a time.
    turned = nn.Parameter(other.turned.detach().T.contiguous())
    experts = [nn.Parameter(expert.clone()) for expert in other.experts.detach()]
    matrices = nn.ParameterList([other.tall, other.wide, other.square, turned, *experts])
    run(matrices, torch.optim.Muon(matrices.parameters(), weight_decay=0.3, **own))
    rest = nn.ParameterList([other.table, other.readout, other.bias])
    run(rest, torch.optim.AdamW(rest.parameters(), betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, fused=True))
    for name in ("tall", "wide", "square", "table", "readout", "bias"):
        assert torch.equal(getattr(model, name), getattr(other, name)), name
    torch.testing.assert_close(model.experts, torch.stack(experts), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.turned, turned.T, rtol=0, atol=2e-4)  # Newton and Schulz in bfloat16


def test_lion_is_its_equations() -> None:
    model, other = Matrices(torch.float64), Matrices(torch.float64)
    run(model, build_optimizer(model, train_of("lion", beta1=0.7, beta2=0.9)))
    for x in other.parameters():
        momentum = torch.zeros_like(x)
        for step in range(STEPS):
            g, lr = gradient(x, step), rate(step)
            x.data -= lr * ((0.7 * momentum + 0.3 * g).sign() + 0.3 * x.data)
            momentum = 0.9 * momentum + 0.1 * g
    assert_same(model, other)


@pytest.mark.parametrize(("averaging_power", "weight_power"), [(0.0, 2.0), (0.5, 1.0)])
def test_schedule_free_is_its_equations(averaging_power: float, weight_power: float) -> None:
    model, used, trained = (Matrices(torch.float64) for _ in range(3))
    train = train_of("schedule_free", averaging_power=averaging_power, weight_power=weight_power)
    optimizer = build_optimizer(model, train)
    run(model, optimizer)
    for x, y in zip(used.parameters(), trained.parameters(), strict=True):
        z, squares, total = x.detach().clone(), torch.zeros_like(x), 0.0
        for step in range(STEPS):
            g, lr = gradient(y, step), rate(step)
            squares = 0.95 * squares + 0.05 * g**2
            z = z - lr * (g / ((squares / (1 - 0.95 ** (step + 1))).sqrt() + 1e-6) + 0.3 * y.data)
            weight = (step + 1) ** averaging_power * lr**weight_power
            total += weight
            x.data = (1 - weight / total) * x.data + weight / total * z
            y.data = 0.8 * x.data + 0.2 * z
    assert_same(model, trained)
    with at_average(optimizer):
        assert_same(model, used)
    assert_same(model, trained)


def test_soap_is_its_equations_for_matrices_and_adamw_for_all_else() -> None:
    model, other = Matrices(torch.float64), Matrices(torch.float64)
    run(model, build_optimizer(model, train_of("soap", precondition_every=2, max_dim=4)))
    for name in ("tall", "wide", "square", "turned", "table", "readout"):
        soap(getattr(other, name).data)
    for expert in other.experts.data:
        soap(expert)
    rest = nn.ParameterList([other.bias])
    run(rest, torch.optim.AdamW(rest.parameters(), betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, fused=True))
    assert_same(model, other)


def soap(x: Tensor) -> None:
    """Algorithm 3 of arXiv:2409.11321 for one matrix, its bases turned every second update, none of more than 4.

    Longer sides have products of rank 4, whose other vectors are any.
    """
    left, right, moment, squares = x.new_zeros(len(x), len(x)), x.new_zeros(x.shape[1], x.shape[1]), x * 0, x * 0
    Q_left, Q_right = torch.eye(len(x), dtype=x.dtype), torch.eye(x.shape[1], dtype=x.dtype)
    for step in range(STEPS):
        g, lr = gradient(x, step), rate(step)
        if step:
            moment = 0.8 * moment + 0.2 * g
            squares = 0.95 * squares + 0.05 * (Q_left.T @ g @ Q_right) ** 2
            update = Q_left @ ((Q_left.T @ moment @ Q_right) / (squares.sqrt() + 1e-6)) @ Q_right.T
            x -= lr * math.sqrt(1 - 0.95**step) / (1 - 0.8**step) * update
            x *= 1 - lr * 0.3
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        if step % 2:
            continue
        Q_left, order = basis(left, Q_left, is_first=step == 0)
        squares = squares[order]
        Q_right, order = basis(right, Q_right, is_first=step == 0)
        squares = squares[:, order]


def basis(products: Tensor, Q: Tensor, is_first: bool) -> tuple[Tensor, Tensor]:
    every = torch.arange(len(Q))
    if len(Q) > 4:
        return Q, every
    if is_first:
        return torch.linalg.eigh(products).eigenvectors.flip(1), every
    order = (Q.T @ products @ Q).diagonal().argsort(descending=True)
    return torch.linalg.qr(products @ Q[:, order]).Q, order


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13, msg=name)


def test_what_breaks_off_halfway_is_put_right() -> None:
    model = Matrices()
    optimizer = build_optimizer(model, train_of("schedule_free"))
    run(model, optimizer)
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    halfway = at_average(optimizer)
    halfway.__enter__()
    leave_average(optimizer)
    with at_average(optimizer):
        used = [parameter.detach().clone() for parameter in model.parameters()]
        with at_average(optimizer):
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), used, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained, strict=True))
    assert not any(TRAINED in state for state in optimizer.state.values())


def test_what_each_keeps() -> None:
    model = Matrices()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    of_matrices = 4 * sum(getattr(model, name).numel() for name in ("tall", "wide", "square", "experts", "turned"))
    kept = {name: optimizer_bytes(parse_train({"optimizer": name}), model) for name in names("optimizer")}
    wanted = {"adamw": 2 * size, "lion": size, "schedule_free": 2 * size, "muon": 2 * size - of_matrices}
    factors = 13 + 5 + 5 + 11 + 4 + 4 + 3 * (7 + 4) + 4 + 9 + 17 + 5 + 3 + 5 + 13
    bases = 2 * (
        13**2 + 5**2 + 5**2 + 11**2 + 4**2 + 4**2 + 3 * (7**2 + 4**2) + 4**2 + 9**2 + 17**2 + 5**2 + 3**2 + 5**2
    )
    assert kept | wanted | {"adafactor": 4 * factors, "soap": 2 * size + 4 * bases} == kept


def test_muon_needs_roles() -> None:
    class Undeclared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    with pytest.raises(ConfigError, match=r"train\.optimizer: Undeclared, .* no role of its parameter 'weight'"):
        build_optimizer(Undeclared(), train_of("muon"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.optimizer=muom"], "train.optimizer: no optimizer 'muom'; did you mean 'muon'?"),
        (["train.optimizer={type: lion, beta3: 0.5}"], "unknown knob 'beta3' of 'lion'; did you mean 'beta2'?"),
        (["train.optimizer={type: muon, momentum: 1}"], "train.optimizer.momentum: 1.0 is not at most 0.999999"),
        (
            ["train.optimizer=schedule_free", "train.beta1=0"],
            "train.optimizer: schedule_free: needs a train.beta1 above 0",
        ),
        (
            ["train.optimizer=muon", "train.parametrization=mup", "train.base_width=32"],
            "train.optimizer: 'muon' has no rules for train.parametrization 'mup'; it takes standard",
        ),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(load("llama2_tiny", overrides))
    assert message in str(caught.value)


def test_muon_is_refused_where_ranks_divide_heads() -> None:
    experiment = load("llama2_tiny", ["train.optimizer=muon"])
    message = "'muon' updates whole tensors, which parallel.tensor divides"
    with pytest.raises(ConfigError, match=message):
        require_fit(experiment, validate(experiment), Layout(tensor=2))
    require_fit(experiment, validate(experiment), Layout(shard=2))


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_trains_what_ships(name: str) -> None:
    experiment = load("megalodon_tiny", [f"train.optimizer={name}", "model.layers[0].repeat=1"])
    model = build(experiment.model)
    optimizer = build_optimizer(model, experiment.train)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    tokens = torch.arange(64)[None] * 7 % 251
    logits, _ = model(tokens)
    nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]).backward()
    optimizer.step()
    optimizer.step()  # the first of some is of their statistics alone
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)]
    assert sum(changed) > 0.9 * len(changed), "but for those whose gradient is zero at the start"
    assert all(math.isfinite(float(parameter.detach().sum())) for parameter in model.parameters())
