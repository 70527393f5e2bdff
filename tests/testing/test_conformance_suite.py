"""The conformance suite finds the problem of a broken component, and names it."""

import pickle
import random
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import ConfigError, Count, Fraction, Positive, Recurrent, State
from archlab.config.registry import names, register
from archlab.testing import Check, CheckFailed, CheckResult, checks, random_case
from archlab.testing.component_case import ComponentCase


class Last(Recurrent):
    """Adds to each x the previous x times a gain."""

    gain: nn.Parameter

    def __init__(self, dim: int, *, gain: Positive = 1.0) -> None:
        super().__init__()
        self.start = gain
        self.gain = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gain, self.start)

    def init_state(self, batch_size: int) -> State:
        return {"last": self.gain.new_zeros(batch_size, len(self.gain))}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        last = (state or self.init_state(len(x)))["last"]
        return x + self.gain * torch.cat((last[:, None], x[:, :-1]), 1), {"last": x[:, -1].clone()}


# Checks that need the component's file: one exports its source, the other imports it in processes of its own.
OF_FILES = ("exports", "several_processes_equal_one")


def run_check(cls: type, name: str) -> None:
    """Run one check of a mixer."""
    register("mixer", "under_test")(cls)
    [check] = [check for check in checks("mixer", "under_test") if str(check) == name]
    check()


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_a_good_component_passes_every_check(gain: float) -> None:
    register("mixer", "under_test")(Last)
    for check in checks("mixer", "under_test", gain=gain):
        if str(check) not in OF_FILES:
            check()


@pytest.mark.slow
def test_each_check_has_a_description() -> None:
    register("mixer", "under_test")(Last)
    for check in checks("mixer", "under_test"):
        if str(check) in OF_FILES:
            continue
        assert len(check.result().description.split()) > 3


class Peeks(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        return y + F.pad(x[:, 1:], (0, 0, 0, 1)), state


class Deaf(Last):
    """Declares that it looks ahead, but does not."""

    causal = False


class Forgets(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return super().forward(x, None)


class Grows(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, new = super().forward(x, state)
        past = (state or {}).get("past", x[:, :0])
        return y, new | {"past": torch.cat((past, x), 1)}


class Views(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, _ = super().forward(x, state)
        return y, {"last": torch.cat((x[:, -1], x[:, -1]))[: len(x)]}


class Alike(Last):
    """Takes all rows for where the first one is."""

    def init_state(self, batch_size: int) -> State:
        return super().init_state(batch_size) | {"count": torch.zeros(batch_size, dtype=torch.int64)}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, new = super().forward(x, state)
        count = (state or self.init_state(len(x)))["count"]
        place = count[:1, None, None] + torch.arange(x.shape[1])[:, None]
        return y * (1 + place), new | {"count": count + x.shape[1]}


class Padded(Last):
    """Allocates for its limit, whatever it reads."""

    def __init__(self, dim: int, *, limit: Count = 16) -> None:
        super().__init__(dim)
        self.limit = limit

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        return F.pad(y, (0, 0, 0, self.limit))[:, : x.shape[1]], state


class Repeats(nn.Module):
    """Takes as many steps as a knob without a bound says."""

    def __init__(self, dim: int, *, num_steps: Count = 2) -> None:
        super().__init__()
        self.inner, self.num_steps = nn.Linear(dim, dim), num_steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_steps):
            x = x + self.inner(x)
        return x


class Unused(Last):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.unused = nn.Linear(dim, dim)


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2.01 * grad


class WrongGradient(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        return Wrong.apply(y), state


class Breaks(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        return (y if float(y.detach().sum()) > -1e9 else -y), state


class ByLength(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        return y * x.shape[1], state


class Coarse(Last):
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = super().forward(x, state)
        noise = 0.5 if torch.is_autocast_enabled("cpu") else 0.0
        return y * (1 + noise * torch.linspace(-1, 1, y.shape[-1])), state


class DeadKnob(Last):
    def __init__(self, dim: int, *, depth: Count = 3, share: Fraction = 0.5) -> None:
        super().__init__(dim, gain=1 + share)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "check", "problem"),
    [
        (Peeks, "is_causal", "the first outputs that change with inputs 0, 1, ... are [0, 0, 0, 1"),
        (Deaf, "is_causal", "declares causal = False, but does not look ahead"),
        (Forgets, "chunked_equals_whole", "outputs of calls of [1, 1"),
        (Grows, "has_fixed_size_state", "the state changes from"),
        (Views, "has_fixed_size_state", "is a view of a larger one"),
        (Alike, "rows_are_independent", "outputs of a row after 8 tokens, beside one of another length"),
        (ByLength, "packed_equals_separate", "outputs of documents in one batch"),
        (Padded, "allocates_what_it_reads", "bytes instead of"),
        (Repeats, "allocates_what_it_reads", "num_steps are twice as large: bound a number of steps"),
        (Unused, "has_all_gradients", "unused.weight has no gradient"),
        (WrongGradient, "has_exact_gradients", "the slope of the loss"),
        (Breaks, "compiles", "does not compile as one graph: "),
        (Coarse, "bfloat16_is_close", "% off"),
        (DeadKnob, "has_no_dead_knob", "the knob 'depth' has no effect"),
    ],
)
def test_a_broken_component_fails_its_check(cls: type, check: str, problem: str) -> None:
    with pytest.raises(CheckFailed, match=re.escape(problem)):
        run_check(cls, check)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "kind", "name", "knobs"),
    [
        ("declares_parameters", "mixer", "attention", {"output_gate": "none"}),
        ("declares_parameters", "head", "language_model", {"tied": True}),
        ("has_no_dead_knob", "head", "language_model", {"tied": True}),
    ],
)
def test_a_knob_that_rules_others_out_is_no_fault_of_them(check: str, kind: str, name: str, knobs: dict) -> None:
    next(each for each in checks(kind, name, **knobs) if str(each) == check)()


def test_a_component_that_fits_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="no mixer 'mine'"):
        checks("mixer", "mine")
    with pytest.raises(ConfigError, match="5 is less than the 13 tokens"):
        checks("attention", "softmax", window_size=5)
    with pytest.raises(ConfigError, match="unknown knob 'num_head'"):
        checks("mixer", "attention", num_head=3)
    with pytest.raises(ConfigError, match="no model is known to test a task in"):
        checks("task", "stdlib")


def test_random_knobs_give_models_and_differ() -> None:
    rng = random.Random(1)
    drawn = [random_case(ComponentCase("mixer", "attention"), rng) for _ in range(8)]
    assert len({str(case) for case in drawn}) > 4
    kept = [random_case(ComponentCase("ffn", name, {"bias": True}), rng) for name in names("ffn") if name == "mlp"]
    assert all(case.knobs["bias"] is True for case in kept)


def test_a_case_goes_to_another_process_without_what_it_has_computed() -> None:
    fresh, used = (ComponentCase("ffn", "mlp", {"hidden_dim": 8}) for _ in range(2))
    assert used.spec() is used.spec()
    assert pickle.dumps(used) == pickle.dumps(fresh)
    assert pickle.loads(pickle.dumps(used)).spec() == used.spec()


def test_a_check_that_raises_anything_has_failed() -> None:
    def divides(case: ComponentCase) -> None:
        """A quotient."""
        1 / 0  # noqa: B018

    assert Check(divides, ComponentCase("mixer", "ema")).result() == CheckResult(
        "divides", "A quotient.", "ZeroDivisionError: division by zero"
    )
