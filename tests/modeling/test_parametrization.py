"""Rules of muP and CompleteP by hand, and that factors folded into parameters and optimizer are multipliers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import archlab
from archlab import Count, Param, register
from archlab.config.experiment import Experiment, load
from archlab.config.registry import find, names
from archlab.config.train_config import parse_train
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import build, build_base_on_meta, build_on_meta, validate
from archlab.modeling.param_scales import ParamScale, base_spec, param_scales
from archlab.modeling.parametrization import parametrize
from archlab.training.optimizer import build_optimizer

SMALL = ["model.dim=32", "model.layers[*].repeat=2", "train.context=16"]


def experiment(name: str = "llama2_tiny", *overrides: str) -> Experiment:
    return load(name, [*SMALL, *overrides])


def scales(loaded: Experiment) -> dict[str, ParamScale]:
    return param_scales(loaded.train, build_on_meta(loaded.model), build_base_on_meta(loaded))


def test_the_rules_of_mup_by_hand() -> None:
    found = scales(experiment("llama2_tiny", "train.parametrization=mup", "train.base_width=8"))
    # dim is 4 times, hidden_dim 384 becomes 96, and 4 heads become 1.
    assert found["embedding.weight"] == ParamScale(lr=1.0, eps=1 / 4, rms=1.0)
    assert found["blocks.1.mixer.query.weight"] == ParamScale(lr=1 / 4, eps=1 / 4, rms=1 / 2)
    assert found["blocks.1.ffn.down.weight"] == ParamScale(lr=1 / 4, eps=1 / 4, rms=1 / 2)
    assert found["blocks.1.norm.weight"] == ParamScale(lr=1.0, eps=1 / 4, rms=None)
    assert found["head.weight"] == ParamScale(lr=1 / 4, eps=1.0, rms=1 / 4)
    assert found["head.weight"].decay == 4


def test_completep_divides_the_branches_by_depth() -> None:
    flags = ("train.parametrization=completep", "train.base_width=32", "train.base_depth=1")
    found = scales(experiment("llama2_tiny", *flags))
    assert found["blocks.1.mixer.query.weight"] == ParamScale(lr=1.0, eps=1 / 2, rms=1.0)
    assert found["blocks.1.mixer.out.weight"] == ParamScale(lr=1 / 2, eps=1.0, rms=1.0, factor=1 / 2)
    assert found["head.weight"] == ParamScale(lr=1.0, eps=1.0, rms=1.0)
    inner = scales(experiment("megalodon_tiny", *flags))
    assert inner["blocks.1.mixer.out.weight"].factor == 1.0  # a two-hop residual adds the ffn alone
    assert inner["blocks.1.ffn.down.weight"].factor == 1 / 2


def test_wider_heads_have_smaller_queries() -> None:
    flags = (
        "train.parametrization=mup",
        "train.base_width=8",
        "train.base_model={'model.layers[*].mixer.num_heads': 4}",
    )
    found = scales(experiment("llama2_tiny", *flags))
    # Scores are q k^T / sqrt(K): with K 4 times as large, the query is 1/2 as large, so that they are as q k^T / K.
    assert found["blocks.0.mixer.query.weight"].lr == pytest.approx(1 / 8)
    assert found["blocks.0.mixer.key.weight"].lr == pytest.approx(1 / 4)


@pytest.mark.parametrize("scheme", ["mup", "completep"])
def test_at_the_base_everything_is_standard(scheme: str) -> None:
    loaded = experiment(
        "megalodon_tiny", f"train.parametrization={scheme}", "train.base_width=32", "train.base_depth=2"
    )
    model, plain = build(loaded.model), build(loaded.model)
    found = parametrize(loaded, model)
    assert found is not None
    assert all((s.lr, s.eps, s.decay, s.factor) == (1.0, 1.0, 1.0, 1.0) for s in found.values())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_initial_values_have_the_ratio_to_the_base_whatever_the_distribution() -> None:
    for init in ("he", "normal", "xavier"):
        flags = ("train.parametrization=mup", "train.base_width=8", f"model.layers[*].mixer.init={init}")
        loaded = experiment("llama2_tiny", *flags)
        model, base = build(loaded.model), build(base_spec(loaded))
        parametrize(loaded, model)
        for name, ratio in (("embedding.weight", 1.0), ("blocks.0.mixer.key.weight", 0.5), ("head.weight", 0.25)):
            own, other = (float(m.get_parameter(name).detach().square().mean().sqrt()) for m in (model, base))
            assert own == pytest.approx(ratio * other, rel=1e-5)


class Multiplied(nn.Module):
    """y = U relu(c W x), with the factor in front of W, or in W."""

    def __init__(self, factor: float, folded: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        W, U = (torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        self.factor = 1.0 if folded else factor
        self.W, self.U = nn.Parameter(W * (factor if folded else 1.0)), nn.Parameter(U)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ (self.factor * self.W)) @ self.U


def that_transfer() -> list[str]:
    return [name for name in names("optimizer") if "mup" in find("optimizer", name).cls.parametrizations]


@pytest.mark.parametrize("optimizer", that_transfer())
def test_a_folded_factor_is_a_multiplier(optimizer: str) -> None:
    """The optimizer cannot distinguish them, with epsilon and weight decay of the size of the gradients."""
    given = {"lr": 0.05, "eps": 0.3, "weight_decay": 0.2, "optimizer": optimizer}
    train, factor = parse_train(given), 0.125
    one = ParamScale(1.0, 1.0, 1.0)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outputs = []
    for folded in (False, True):
        model = Multiplied(factor, folded)
        optimizer = build_optimizer(model, train, {"W": one.times(factor) if folded else one, "U": one})
        for group in optimizer.param_groups:
            group["lr"] = train.lr * group["lr_scale"]
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(model(x), x).backward()
            optimizer.step()
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


def test_standard_groups_are_as_ever() -> None:
    loaded = experiment()
    model = build(loaded.model)
    assert parametrize(loaded, model) is None
    groups = build_optimizer(model, loaded.train).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all("lr_scale" not in group for group in groups)


@pytest.mark.slow
def test_a_run_resumes_and_its_export_is_an_ordinary_model(tmp_path: Path) -> None:
    flags = ["train.parametrization=completep", "train.base_width=8", "train.base_depth=1", "train.steps=4"]
    flags += ["train.checkpoint_every=2", "train.eval_tokens=64", "train.compile=off", "train.precision=float32"]
    flags += ["train.batch_size=2", "train.warmup=1"]
    whole = archlab.train("llama2_tiny", [*SMALL, *flags], out=tmp_path / "whole")

    class Stop(archlab.Callback):
        def on_step(self, record: dict[str, float]) -> None:
            if record["step"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archlab.train("llama2_tiny", [*SMALL, *flags], out=tmp_path / "cut", callbacks=[Stop()])
    cut = archlab.train("llama2_tiny", [*SMALL, *flags], out=tmp_path / "cut", resume=True)
    models = [archlab.load_model(run.folder) for run in (whole, cut)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
    plain = build(load(whole.folder / "experiment.yaml", ["train.parametrization=standard"]).model)
    plain.load_state_dict(models[0].state_dict())
    tokens = torch.arange(12)[None]
    assert torch.equal(plain(tokens)[0], models[0](tokens)[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "train.parametrization: mup needs train.base_width"),
        (["train.base_width=5"], "no model at the base width: model.layers[0].mixer: attention: dim 5"),
        (["train.base_width=8", "model.head.tied=true"], "role is input: no one scale serves both ends"),
        (
            [
                "train.base_width=8",
                "model.embedding={type: adaptive, cutoffs: [64], factor: 2}",
                "model.head={type: adaptive, tied: true}",
            ],
            "the head's matrix is 'embedding.tables.0.weight', whose role is input: no one scale serves both ends",
        ),
        (
            ["train.base_model={'model.layers[0].ffn.hidden': 3}"],
            "train.base_model.model.layers[0].ffn.hidden: is not a size of the model; did you mean "
            "'model.layers[0].ffn.hidden_dim'?",
        ),
        (["train.base_model={'model.layers[0].dropout': 1}"], "layers[0].dropout: is not a size of the model"),
        (
            ["train.parametrization=completep", "train.base_width=8"],
            "train.parametrization: completep needs train.base_depth, the number of layers where lr was tuned",
        ),
        (["train.base_model={model.dim: 8, 'model.layers[*].mixer.num_heads': 3}"], "dim 8 is not divisible"),
    ],
)
def test_what_cannot_be_transferred_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(experiment("llama2_tiny", "train.parametrization=mup", *flags))
    assert message in str(error.value)


def test_a_component_without_roles_works_under_standard_alone() -> None:
    @register("ffn", "without_roles")
    class WithoutRoles(nn.Module):
        """A linear layer."""

        def __init__(self, dim: int) -> None:
            super().__init__()
            self.map = nn.Linear(dim, dim)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x)

    flags = ("model.layers[*].ffn=without_roles", "train.base_width=8")
    validate(experiment("llama2_tiny", *flags))
    with pytest.raises(ConfigError, match=r"ffn 'without_roles' declares no role of its parameter 'map.weight'"):
        validate(experiment("llama2_tiny", *flags, "train.parametrization=mup"))
    declared = {"map.weight": Param("hidden"), "map.bias": Param("vector")}
    register("ffn", "without_roles", params=declared)(copy.copy(WithoutRoles))
    validate(experiment("llama2_tiny", *flags, "train.parametrization=mup"))
    with pytest.raises(ConfigError, match="WithoutRoles declares no parameter with branch=True"):
        validate(experiment("llama2_tiny", *flags, "train.parametrization=completep", "train.base_depth=1"))


@pytest.fixture
def own_parts() -> None:
    """Register a backbone without dim and blocks, a layer without branches, and an ffn that scales by what it lacks."""

    @register("backbone", "own", params={"p*": Param("vector")})
    class Own(nn.Module):
        def __init__(self, *, width: Count = 8, axes: Count = 1, number: Count = 1) -> None:
            super().__init__()
            for index in range(number):
                self.register_parameter(f"p{index}", nn.Parameter(torch.zeros((width,) * axes)))

    @register("layer", "own_layer", params={"weight": Param("hidden"), "bias": Param("vector")})
    class OwnLayer(nn.Linear):
        def __init__(self, dim: int, layer_index: int) -> None:
            super().__init__(dim, dim)

    @register("ffn", "own_ffn", params={"weight": Param("hidden", scale={"heads.count": 1}), "bias": Param("vector")})
    class OwnFeedForward(nn.Linear):
        def __init__(self, dim: int) -> None:
            super().__init__(dim, dim)


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["model=own", "train.base_width=8"], "train.base_width: the model has no dim to compare with: give its sizes"),
        (
            ["model=own", "train.base_model={model.axes: 2}"],
            "train.base_model: 'p0' is [8], and [8, 8] in the base",
        ),
        (
            ["model=own", "train.base_model={model.number: 2}"],
            "train.base_model: only the base has a parameter 'p1': it differs in sizes alone",
        ),
        (
            ["model={type: own, number: 2}", "train.base_model={model.number: 1}"],
            "train.base_model: the base has no parameter 'p1': it differs in sizes alone",
        ),
        (
            ["model=own", "train.base_model={model.width: 4}", "train.parametrization=completep", "train.base_depth=1"],
            "train.parametrization: the model has no blocks whose number completep could scale with: use mup",
        ),
        (
            ["model.layers=[own_layer]", "train.base_width=8", "train.parametrization=completep", "train.base_depth=1"],
            "train.parametrization: OwnLayer has no `branches`, the modules whose outputs it adds to its input",
        ),
        (
            ["model.layers[*].ffn=own_ffn", "train.base_width=8"],
            "train.parametrization: OwnFeedForward has no number 'heads.count', by which its 'weight' scales",
        ),
    ],
)
def test_an_own_part_that_cannot_be_transferred_is_named(flags: list[str], message: str) -> None:
    loaded = load("llama2_tiny", ["train.parametrization=mup", *flags])
    with pytest.raises(ConfigError) as error:
        param_scales(loaded.train, build_on_meta(loaded.model), build_base_on_meta(loaded))
    assert message in str(error.value)


def test_a_role_that_there_is_none_of() -> None:
    with pytest.raises(
        ArchlabError, match=r"'hiden' is not one of input, hidden, output, vector; did you mean 'hidden'"
    ):
        Param("hiden")  # type: ignore[arg-type]
