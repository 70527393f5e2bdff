"""The check that a call's memory follows its input, whatever the limits of a component are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archlab.config.registry import find
from archlab.errors import ConfigError
from archlab.modeling.build import build_on_meta
from archlab.testing.component_case import ComponentCase, is_stream, require

# Both far above the number of tokens of the calls: limits that make no difference to them.
LARGE, LARGER = 2**7, 2**13


@torch.no_grad()
def allocates_what_it_reads(case: ComponentCase) -> None:
    """Limits that calls do not reach, such as a window of a million tokens, cost them no memory."""
    limits = dict(_limits(case))
    if not limits:
        return
    names = ", ".join(limits)
    first, second = (_record(_scale(case, limits, factor)) for factor in (LARGE, 2 * LARGE))
    # Before it is made so large that a call would take hours.
    grows = f"calls take {second.num_calls} operations instead of {first.num_calls} if {names} are twice as large"
    require(second.num_calls <= first.num_calls, f"{grows}: bound a number of steps by Range(low, high)")
    before, after = first.num_bytes, _record(_scale(case, limits, LARGER)).num_bytes
    require(
        after <= before,
        f"calls allocate {after} bytes instead of {before} if {names} are {LARGER // LARGE} times as large",
    )


def _limits(case: ComponentCase) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers among the knobs that may be any larger without parameters of another size."""
    sizes = _sizes(build_on_meta(case.spec()))
    for knob in find(case.kind, case.name).knobs.values():
        value = case.knobs.get(knob.name, knob.default)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            try:
                # First a small factor: a model with parameters of another size takes long to build.
                models = (build_on_meta(_scale(case, {knob.name: value}, factor).spec()) for factor in (2, LARGER))
                if all(_sizes(model) == sizes for model in models):
                    yield knob.name, value
            except ConfigError:  # a size that divides another one
                continue


def _scale(case: ComponentCase, limits: dict[str, int], factor: int) -> ComponentCase:
    return case.with_knobs(**{name: value * factor for name, value in limits.items()})


def _sizes(model: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]


def _record(case: ComponentCase) -> _Allocations:
    """Return the allocations of a call from the start and, for a stream, of two calls that continue it."""
    model = build_on_meta(case.spec())
    with _Allocations() as allocations:
        _, state = model(case.example_inputs().to("meta"))
        for num_tokens in (3, 1) if is_stream(case, model) else ():
            _, state = model(case.example_inputs(num_tokens).to("meta"), state)
    return allocations


class _Allocations(TorchFunctionMode):
    """Sums the bytes of all new tensors that functions return, and counts the functions' calls."""

    def __init__(self) -> None:
        super().__init__()
        # torch gives all tensors of one storage the same Python object; kept alive, since ids are used again otherwise.
        self._seen: dict[int, torch.UntypedStorage] = {}
        self.num_calls = 0

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._seen.values())

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        self.num_calls += 1
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._seen.setdefault(id(storage), storage)
        return output
