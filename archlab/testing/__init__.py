"""One suite for every component, those that come with archlab and your own.

In a test file of yours: `@pytest.mark.parametrize("check", checks("ema", "mine", num_dims=4), ids=str)` over a test
that calls `check()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archlab.errors import one_line
from archlab.testing.checks import default_checks
from archlab.testing.component_case import CheckFailed, ComponentCase
from archlab.testing.export import survives_export
from archlab.testing.variation import no_knob_is_dead, random_case

__all__ = ["Check", "CheckFailed", "ComponentCase", "checks", "random_case"]


@dataclass(frozen=True)
class Check:
    """One promise of one component; a call raises Failed where it is not kept."""

    promise: Callable[[ComponentCase], None]
    subject: ComponentCase

    def __call__(self) -> None:
        """Run it."""
        self.promise(self.subject)

    def problem(self) -> str | None:
        """Run it; return what is wrong in one line, or None."""
        try:
            self()
        except CheckFailed as error:
            return one_line(error)
        except Exception as error:
            return f"{type(error).__name__}: {one_line(error)}"
        return None

    def __str__(self) -> str:
        return self.promise.__name__

    @property
    def meaning(self) -> str:
        """What is promised, as a sentence."""
        return one_line(self.promise.__doc__ or "")


def checks(kind: str, name: str, inputs: Tensor | None = None, **knobs: Any) -> list[Check]:
    """Return the checks of a registered component with these knobs, in a small model that is built around it.

    `inputs` are what the model reads where that is not words. Import the component's file before, or name it
    in `plugins:`. Raises ConfigError where the component is unknown or the knobs give no model.
    """
    subject = ComponentCase(kind, name, knobs, inputs)
    subject.spec()
    return [Check(promise, subject) for promise in (*default_checks(), no_knob_is_dead, survives_export)]
