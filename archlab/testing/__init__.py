"""The conformance suite: one set of checks for every component, archlab's and your own.

In a test file of your own, decorate a test that calls `check()` with
`@pytest.mark.parametrize("check", checks("ema", "mine", num_dims=4), ids=str)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archlab.config.train_config import OPTIMIZER
from archlab.errors import one_line
from archlab.testing.allocation import allocates_what_it_reads
from archlab.testing.checks import default_checks
from archlab.testing.component_case import CheckFailed, ComponentCase
from archlab.testing.export import exports
from archlab.testing.optimizers import optimizer_checks, train_of
from archlab.testing.parallel import several_processes_equal_one
from archlab.testing.params import declares_parameters
from archlab.testing.transfer import transfers
from archlab.testing.variation import has_no_dead_knob, random_case

__all__ = ["Check", "CheckFailed", "CheckResult", "ComponentCase", "checks", "random_case"]


@dataclass(frozen=True)
class Check:
    """One check of one component; calling it raises CheckFailed if it fails."""

    function: Callable[[ComponentCase], None]
    case: ComponentCase

    def __call__(self) -> None:
        """Run the check."""
        self.function(self.case)

    def result(self) -> CheckResult:
        """Run the check; an exception of any kind is a failure."""
        problem = None
        try:
            self()
        except CheckFailed as error:
            problem = one_line(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {one_line(error)}"
        return CheckResult(str(self), one_line(self.function.__doc__ or ""), problem)

    def __str__(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: its name, its description, and the problem, or None if it passed."""

    name: str
    description: str
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether the check found no problem."""
        return self.problem is None


def checks(kind: str, name: str, inputs: Tensor | None = None, **knobs: Any) -> list[Check]:
    """Return the checks of a registered component with these knobs, in a small model built around it.

    `inputs` are the model's inputs unless these are tokens. Import the component's file first, so that it is
    registered. Raises ConfigError if the component is unknown or the knobs give no model.
    """
    case = ComponentCase(kind, name, knobs, inputs)
    case.spec()
    if kind == OPTIMIZER.kind:
        train_of(case)
        return [Check(function, case) for function in optimizer_checks()]
    varied = (allocates_what_it_reads, has_no_dead_knob, exports, declares_parameters, transfers)
    return [Check(function, case) for function in (*default_checks(), *varied, several_processes_equal_one)]
