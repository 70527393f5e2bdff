"""How ranks divide a model by what its components declare: no process is needed to see it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archlab import ArchlabError, ConfigError, Param, TensorPlan, register
from archlab.config import registry
from archlab.config.spec import parse
from archlab.modeling.build import build, build_on_meta
from archlab.ops.rank_sum import RankAxis
from archlab.parallel.division import DoesNotDivide, plan_division
from archlab.parallel.parts import Part, parts_of
from archlab.parallel.tensor import RowLinear, divide_model, get_cuts


def model(mixer: Any = "attention", ffn: Any = "swiglu", **stack: Any) -> nn.Module:
    layer = {"mixer": mixer, "ffn": ffn}
    return build(parse({"type": "stack", "vocab_size": 17, "dim": 32, "layers": [layer], **stack}, "backbone", "model"))


def part(whole: nn.Module, size: int, index: int) -> nn.Module:
    divide_model(whole, RankAxis(size, index, "none"))
    return whole


def test_each_rank_has_heads_channels_and_tokens_of_its_own() -> None:
    whole = model({"type": "attention", "num_heads": 4, "num_kv_heads": 2})
    own = part(model({"type": "attention", "num_heads": 4, "num_kv_heads": 2}), 2, 1)
    mixer, weights = own.get_submodule("blocks.0.mixer"), dict(own.named_parameters())
    assert (mixer.attention.shape.num_heads, mixer.attention.shape.num_kv_heads) == (2, 1)
    assert isinstance(mixer.out, RowLinear)
    for name, tensor in whole.state_dict().items():
        cut = get_cuts(own).get(name)
        assert torch.equal(weights[name], tensor if cut is None else cut.part_of(tensor))
    assert weights["blocks.0.mixer.key.weight"].shape == (8, 32)
    assert weights["embedding.weight"].shape == (8, 32)  # of 17: nine have gone to the first rank
    assert "blocks.0.norm.weight" not in get_cuts(own)


def test_a_head_that_depends_on_its_number_keeps_it() -> None:
    mixer = {"type": "attention", "num_heads": 4, "position": "alibi"}
    steps = torch.arange(5)[None]
    whole = model(mixer).get_submodule("blocks.0.mixer.attention.position").bias(steps, steps)
    parts = [part(model(mixer), 2, index) for index in (0, 1)]
    biases = [own.get_submodule("blocks.0.mixer.attention.position").bias(steps, steps) for own in parts]
    assert torch.equal(torch.cat(biases, 1), whole)


@pytest.mark.parametrize(
    ("mixer", "size", "problem"),
    [
        ({"type": "attention", "num_heads": 4, "num_kv_heads": 2}, 4, r"4 does not divide shape\.num_kv_heads 2 of "),
        (
            {"type": "attention", "num_heads": 4},
            3,
            r"3 does not divide shape\.num_heads 4 of .*; the nearest number that divides all is 2",
        ),
        ({"type": "rwkv6", "head_dim": 8}, 8, r"8 does not divide num_heads 4 of mixer 'rwkv6' \(blocks\.0\.mixer\)"),
        ("megalodon", 2, r"2 does not divide num_heads 1 of mixer 'megalodon'.*that divides all is 1"),
    ],
)
def test_a_number_that_does_not_divide_is_refused_with_the_nearest_that_does(
    mixer: Any, size: int, problem: str
) -> None:
    with pytest.raises(DoesNotDivide, match=rf"^parallel\.tensor: {problem}"):
        plan_division(model(mixer), size)


class MixingHeads(nn.Module):
    """Heads that read each other, and so declare no plan."""

    def __init__(self, shape: Any, position: Any) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.ones(shape.num_heads, shape.num_heads))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("hg,btgv->bthv", self.mix, v)


class Miscounted(nn.Linear):
    """A layer whose plan counts what it does not have."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)


class OddRow(nn.Module):
    """A matrix that is not a layer of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.fixture
def own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register those above, for a test alone."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register("attention", "mixing_heads", params={"mix": Param("vector")})(MixingHeads)
    row = {"weight": Param("hidden", tensor="row")}
    register("ffn", "odd_row", params=row)(OddRow)
    counted = {**row, "bias": Param("vector")}
    register("ffn", "miscounted", params=counted, tensor=TensorPlan(counts=("groups.count",)))(Miscounted)


@pytest.mark.usefixtures("own_parts")
def test_what_is_not_declared_stays_whole_and_so_does_what_is_around_it() -> None:
    division = plan_division(model({"type": "attention", "attention": "mixing_heads"}), 2)
    assert not any(name.startswith("blocks.0.mixer") for name in division.axes)
    assert "blocks.0.ffn.down.weight" in division.axes
    with pytest.raises(DoesNotDivide, match="no component of this model declares how ranks divide it"):
        plan_division(
            model(
                "ema",
                "none",
                vocab_size=None,
                embedding="frames",
                head={"type": "classifier", "num_outputs": 2},
                layers=[{"mixer": {"type": "attention", "attention": "mixing_heads"}, "ffn": "none"}],
            ),
            2,
        )


@pytest.mark.parametrize(("norm", "is_divided"), [("qk_norm", True), ("wide_qk_norm", False)])
def test_a_norm_of_all_heads_together_keeps_them_together(norm: str, is_divided: bool) -> None:
    division = plan_division(model({"type": "attention", "num_heads": 4, norm: "rms"}), 2)
    assert any(name.startswith("blocks.0.mixer") for name in division.axes) is is_divided
    assert "blocks.0.ffn.down.weight" in division.axes


@pytest.mark.usefixtures("own_parts")
def test_a_wrong_plan_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"a row for 'blocks\.0\.ffn\.weight', which is not the weight of an "):
        plan_division(model(ffn="odd_row"), 2)
    with pytest.raises(ConfigError, match=r"'miscounted' \(blocks\.0\.ffn\) has no number 'groups\.count', "):
        plan_division(model(ffn="miscounted"), 2)
    with pytest.raises(ArchlabError, match="counts='num_heads' is a text"):
        TensorPlan(counts="num_heads")  # type: ignore[arg-type]
    with pytest.raises(ArchlabError, match="first='first_head' is the index of the first of `counts`"):
        TensorPlan(first="first_head")


def test_a_rank_knows_which_part_of_the_whole_it_has() -> None:
    own = part(model(), 2, 1)
    parts = parts_of(own, dict(own.named_parameters()))
    assert parts["blocks.0.ffn.down.weight"] == Part((32, 88), (0, 44), (32, 44), frozenset({"tensor"}))
    assert parts["embedding.weight"].spans == ((9, 17), (0, 32))
    moments = {"exp_avg.embedding.weight": own.embedding.weight, "step.embedding.weight": torch.ones(())}
    assert list(parts_of(own, moments, prefixed=True).values()) == [parts["embedding.weight"], Part((), (), ())]


def test_a_tied_head_shares_the_part_of_the_embedding() -> None:
    own = part(model(head={"type": "language_model", "tied": True}), 2, 1)
    assert own.head.matrix is own.embedding.weight
    assert own.output_split.first == 9


def test_a_model_is_divided_without_memory() -> None:
    spec = parse({"type": "stack", "vocab_size": 17, "dim": 32, "layers": [{"mixer": "gla"}]}, "backbone", "model")
    own = part(build_on_meta(spec), 4, 0)
    assert all(parameter.is_meta for parameter in own.parameters())
