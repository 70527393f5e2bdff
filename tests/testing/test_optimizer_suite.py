"""The suite of optimizers passes the one that the documentation shows, and names what is wrong with others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archlab import AdamSettings, ConfigError, Fraction, TrainedParam, UpdateRule
from archlab.config.plugins import load_plugin
from archlab.config.registry import register
from archlab.testing import CheckFailed, checks

DOCS = Path(__file__).parents[2] / "docs/components.md"
IMPORTS = "import torch\nfrom archlab import AdamSettings, Fraction, UpdateRule, choice, register\n\n\n"


@pytest.mark.slow
def test_the_documented_optimizer_passes_and_is_refused_what_it_has_not(tmp_path: Path) -> None:
    [source] = [
        block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "UpdateRule" in block
    ]
    (tmp_path / "mine.py").write_text(IMPORTS + source)
    load_plugin("mine.py", tmp_path)
    for check in checks("optimizer", "momentum", momentum=0.5):
        if str(check) != "several_processes_equal_one":
            check()
    with pytest.raises(ConfigError, match="unknown knob 'momntum' of 'momentum'; did you mean 'momentum'"):
        checks("optimizer", "momentum", momntum=0.5)


class Descent(torch.optim.Optimizer):
    """Gradient descent by the sum of all gradients so far."""

    decay = 0.9

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group["lr"])

    def update(self, parameter: nn.Parameter, lr: float) -> None:
        state = self.state[parameter]
        state["sum"] = self.decay * state.get("sum", torch.zeros_like(parameter)) + parameter.grad
        parameter.add_(state["sum"], alpha=-100 * lr)


class Good(UpdateRule):
    optimizer: type[torch.optim.Optimizer] = Descent

    def __init__(self, adam: AdamSettings, *, unused: Fraction = 0.5) -> None:
        pass

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return self.optimizer(groups, {})

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        return {"sum": param.shape}


class Ascending(Descent):
    def update(self, parameter: nn.Parameter, lr: float) -> None:
        super().update(parameter, -lr)


class Lazy(Descent):
    def update(self, parameter: nn.Parameter, lr: float) -> None:
        if parameter.dim() > 1:
            super().update(parameter, lr)


class Forgetful(Descent):
    """Keeps what no checkpoint holds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sums: dict[nn.Parameter, Tensor] = {}

    def update(self, parameter: nn.Parameter, lr: float) -> None:
        self.sums[parameter] = self.sums.get(parameter, 0) + parameter.grad  # type: ignore[operator]
        self.state[parameter]["sum"] = torch.zeros_like(parameter)
        parameter.add_(self.sums[parameter], alpha=-100 * lr)


class Secretive(Good):
    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        return {}


def rule(made: type[torch.optim.Optimizer]) -> type[Good]:
    return type("Rule", (Good,), {"optimizer": made, "__init__": Good.__init__})


BROKEN = {
    "lowers_the_loss": (rule(Ascending), "updates raise the loss"),
    "declares_its_state": (Secretive, "it keeps .'sum': .* and declares {}"),
    "resumes_bit_for_bit": (rule(Forgetful), "differs once continued"),
    "has_no_dead_knob": (Good, "the knob 'unused' has no effect"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(name: str) -> None:
    cls, message = BROKEN[name]
    register("optimizer", "under_test")(cls)
    [check] = [check for check in checks("optimizer", "under_test") if str(check) == name]
    with pytest.raises(CheckFailed, match=message):
        check()


def test_a_parameter_that_is_left_out_is_named() -> None:
    register("optimizer", "under_test")(rule(Lazy))
    check, *_ = checks("optimizer", "under_test")
    with pytest.raises(CheckFailed, match=r"norm\.weight is not updated"):
        check()
