"""What components summarize of a piece of a sequence, merged, is the state after the pieces."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archlab import ArchlabError, register
from archlab.components._token_shift import TokenShift
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention.softmax import SoftmaxAttention
from archlab.components.ema.cema import ComplexEMA
from archlab.components.ema.ema import DampedEMA
from archlab.components.ema.lru import LinearRecurrentUnit
from archlab.components.ema.s4d import DiagonalStateSpace
from archlab.components.ema.s5 import SimplifiedStateSpace
from archlab.components.ema.short_conv import ShortConvolution
from archlab.components.ffn.moe import MixtureOfExperts
from archlab.components.mixer._forgetting_attention import ForgettingAttention
from archlab.components.mixer._native_sparse_attention import NativeSparseAttention
from archlab.components.norm.timestep import TimestepNorm
from archlab.components.position.rope import RotaryPosition
from archlab.config.registry import components
from archlab.parallel.carry import can_carry
from archlab.testing import ComponentCase

LAYERS = {
    "ema": lambda: DampedEMA(6, num_dims=3),
    "cema": lambda: ComplexEMA(6, num_dims=3),
    "lru": lambda: LinearRecurrentUnit(6, num_dims=3),
    "s4d": lambda: DiagonalStateSpace(6, num_dims=3),
    "s5": lambda: SimplifiedStateSpace(6, state_dim=4),
    "short_conv": lambda: ShortConvolution(6, kernel_size=4),
    "long_conv": lambda: ShortConvolution(6, kernel_size=12),
    "one_tap": lambda: ShortConvolution(6, kernel_size=1),
    "token_shift": lambda: TokenShift(6),
    "timestep": lambda: TimestepNorm(6, num_groups=2),
    "forgetting_timestep": lambda: TimestepNorm(6, num_groups=2, decay=0.8),
}
WINDOWS = [("full", 24), ("sliding", 3), ("sliding", 9), ("chunk", 3), ("chunk", 4), ("chunk", 10)]
PIECES, STEPS = 4, 6


def assert_pieces_merge(layer: Any, *inputs: Tensor) -> None:
    whole, _ = layer(*inputs)
    pieces = list(zip(*(x.split(STEPS, 1) for x in inputs), strict=True))
    summaries, state = [layer.summarize(*piece) for piece in pieces], None
    for index, (piece, expected) in enumerate(zip(pieces, whole.split(STEPS, 1), strict=True)):
        if index and summaries[0]:
            merged = summaries[0]
            for later in summaries[1:index]:
                merged = layer.merge(merged, later)
            state = layer.enter(merged)
            assert state.keys() == layer.init_state(len(piece[0])).keys()
        actual, _ = layer(*piece, state)
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_enters_the_state_after_earlier_pieces(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    assert_pieces_merge(layer, torch.randn(2, PIECES * STEPS, 6, dtype=torch.float64))


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_attention_enters_the_keys_of_earlier_pieces(window: Any, size: int) -> None:
    torch.manual_seed(0)
    shape = AttentionShape(4, 2, 6, 3, scale=0.4)
    layer = SoftmaxAttention(shape, RotaryPosition(4, 6), window=window, window_size=size).double()
    sizes = ((4, 6), (2, 6), (2, 3))
    assert_pieces_merge(layer, *(torch.randn(2, PIECES * STEPS, *size, dtype=torch.float64) for size in sizes))


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_attention_that_forgets_enters_the_gates_too(window: Any, size: int) -> None:
    torch.manual_seed(0)
    layer = ForgettingAttention(
        AttentionShape(4, 2, 6, 3, scale=0.4), RotaryPosition(4, 6), dropout=0.0, window=window, window_size=size
    ).double()
    q, k, v = (torch.randn(2, PIECES * STEPS, *sizes, dtype=torch.float64) for sizes in ((4, 6), (2, 6), (2, 3)))
    log_gates = torch.nn.functional.logsigmoid(torch.randn(2, PIECES * STEPS, 4, dtype=torch.float64))
    assert_pieces_merge(layer, q, k, v, log_gates)


def test_sparse_attention_enters_the_keys_of_earlier_pieces() -> None:
    torch.manual_seed(0)
    shape, position = AttentionShape(4, 2, 6, 3, scale=0.4), RotaryPosition(4, 6)
    sizes = {"block_size": 2, "num_selected": 3, "sliding_size": 4, "window_size": 24}
    layer = NativeSparseAttention(shape, position, **sizes).double()
    q, k, v = (torch.randn(2, PIECES * STEPS, *sizes, dtype=torch.float64) for sizes in ((4, 6), (2, 6), (2, 3)))
    assert_pieces_merge(layer, q, k, v, torch.rand(2, PIECES * STEPS, 4, 3, dtype=torch.float64))


@pytest.mark.parametrize("knobs", [{"balance_loss": 0.1}, {"bias_rate": 0.1}, {"balance_loss": 0.0}])
def test_the_counts_of_experts_are_those_of_the_pieces(knobs: dict[str, float]) -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(6, num_experts=4, hidden_dim=5, **knobs).double()
    x = torch.randn(2, PIECES * STEPS, 6, dtype=torch.float64)
    _, whole = layer(x)
    first, *later = (layer.summarize(piece) for piece in x.split(STEPS, 1))
    for each in later if first else ():
        first = layer.merge(first, each)
    state = layer.enter(first) if first else first
    assert state.keys() == whole.keys()
    assert bool(state) == any(knobs.values())
    for name, expected in whole.items():
        torch.testing.assert_close(state[name], expected, rtol=1e-11, atol=1e-11)


def test_a_stack_counts_the_positions_of_the_pieces() -> None:
    model = ComponentCase("mixer", "ema").build()
    tokens = torch.zeros(2, 9, dtype=torch.int64)
    first, second = (model.summarize(piece) for piece in tokens.split([4, 5], 1))
    assert torch.equal(model.enter(model.merge(first, second))["position"], model(tokens)[1]["position"])


def test_chunks_that_end_with_the_pieces_exchange_nothing() -> None:
    shape = AttentionShape(1, 1, 2, 2, scale=1.0)
    layer = SoftmaxAttention(shape, RotaryPosition(1, 2), window="chunk", window_size=3)
    assert layer.summarize(*(torch.zeros(1, STEPS, 1, 2) for _ in range(3))) == {}


def test_a_model_is_carried_if_all_of_its_state_is() -> None:
    assert can_carry(ComponentCase("mixer", "megalodon", {"norm": {"type": "timestep", "num_groups": 4}}).build())
    assert not can_carry(ComponentCase("mixer", "gla").build())
    for component in components():
        if component.carry == "associative":
            assert all(hasattr(component.cls, name) for name in ("summarize", "merge", "enter")), component.name


def test_a_carry_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ArchlabError, match="carry='associated' is not one of relay, associative"):
        register("ema", "wrong_carry", carry="associated")(nn.Module)  # type: ignore[arg-type]
