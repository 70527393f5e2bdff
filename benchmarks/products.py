"""Each component, forward and backward, against its own matrix products alone, 4096 tokens of width 256.

python benchmarks/products.py [--only NAME-OR-KIND ...] [--eager] [--context TOKENS]

One thread, and seconds of the processor: waiting for other processes does not count, what they do to the caches does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _measure import Step, best_seconds, cpu_seconds
from _models import DIM
from _products import record
from torch import Tensor, nn

from archlab.config.registry import find, names
from archlab.config.spec import parse
from archlab.modeling.build import configure_backends
from archlab.runtime.toolchain import has_cpp_compiler

TOKENS, DEFAULT_CONTEXT, ROUNDS, LIMIT = 4096, 1024, 3, 4.0
CAPPED = "softmax, capped"  # a form of its own: no fused kernel has it
# What a component is measured as: itself, or the smallest part of a model that it occurs in.
HOSTS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "mixer": ("mixer", lambda tree: tree),
    "attention": ("mixer", lambda tree: {"type": "attention", "attention": tree}),
    "ffn": ("ffn", lambda tree: tree),
    "ema": ("mixer", lambda tree: {"type": "ema", "ema": tree}),
    "norm": ("layer", lambda tree: {"type": "block", "mixer": "attention", "norm": tree, "ffn_norm": tree}),
    "residual": ("layer", lambda tree: {"type": "block", "mixer": "attention", "residual": tree}),
}


def components() -> list[tuple[str, str]]:
    """Return the kind and the name of all that is measured."""
    registered = [(kind, name) for kind in HOSTS for name in names(kind)]
    return sorted([*registered, ("attention", CAPPED)], key=lambda pair: [*HOSTS].index(pair[0]))


def layer_of(kind: str, name: str, context: int) -> nn.Module:
    """Return the layer that a component is measured as, with its default knobs, or room for a longer context."""
    host, tree = HOSTS[kind]
    knobs: dict[str, Any] = {"soft_cap": 50.0} if name == CAPPED else {}
    name = "softmax" if name == CAPPED else name
    if context > DEFAULT_CONTEXT and "window_size" in find(kind, name).knobs:
        knobs["window_size"] = context
    factory = parse(tree({"type": name} | knobs), host, host).factory()
    layer: nn.Module = factory(DIM, 1) if host == "layer" else factory(DIM)
    return layer


def num_sequences(context: int) -> int:
    """Return how many sequences are read, of 4096 tokens in all unless one is longer."""
    return max(1, TOKENS // context)


def training_call(layer: nn.Module, context: int) -> Step:
    """Return a function that runs a layer forward and backward."""
    num_streams = getattr(layer, "num_streams", None)
    shape = (num_sequences(context), context, *(() if num_streams is None else (num_streams,)), DIM)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs, dy = [x, *layer.parameters()], torch.ones(shape)

    def step() -> None:
        output = layer(x)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        if y.requires_grad:
            torch.autograd.grad(y, inputs, dy, allow_unused=True)

    return step


def compiled_call(kind: str, name: str, context: int) -> Step:
    """Return the same, compiled as a block of a model is."""
    torch.compiler.reset()  # or a class that was met in many forms is at its limit of graphs
    layer = layer_of(kind, name, context)
    layer.compile(fullgraph=True)
    return training_call(layer, context)


def measure(kind: str, name: str, context: int, *, eager: bool) -> list[float]:
    """Return seconds of the products, of the layer and of the compiled layer; none where there are no products."""
    step = training_call(layer_of(kind, name, context), context)
    products = record(step)
    if not products.steps:
        return []
    others = () if eager else (compiled_call(kind, name, context),)
    return best_seconds(products.run, step, *others, rounds=ROUNDS, timed=cpu_seconds)


def cells(seconds: Sequence[float]) -> list[str]:
    """Return milliseconds of the products, and milliseconds and ratio of each form, marked above the limit."""
    if not seconds:
        return ["none"]
    products, *forms = seconds
    marks = ["*" if form > LIMIT * products else "" for form in forms]
    ratios = [[f"{1e3 * form:.1f}", f"{form / products:.2f}{mark}"] for form, mark in zip(forms, marks, strict=True)]
    return [f"{1e3 * products:.1f}", *(cell for pair in ratios for cell in pair)]


def print_row(kind: str, name: str, values: Sequence[str]) -> None:
    """Print one row of the table, of 80 columns."""
    print(f"{kind:<10}{name:<21}" + "".join(f"{value:>9}" for value in values), flush=True)


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="components' names, or kinds")
    parser.add_argument("--eager", action="store_true", help="leave out what torch.compile makes of them")
    parser.add_argument(
        "--context", type=int, default=DEFAULT_CONTEXT, help=f"length of a sequence, of {TOKENS} tokens"
    )
    options = parser.parse_args()
    known = {part for pair in components() for part in pair}
    for name in options.only or ():
        if name not in known:
            parser.error(f"no component and no kind {name!r}; kinds are {', '.join(HOSTS)}")
    if options.context < 1:
        parser.error(f"--context {options.context} is not a length")
    return options


def main() -> None:
    """Measure the components of some names or kinds, or all."""
    options, above = arguments(), []
    configure_backends()
    torch.set_num_threads(1)
    size = f"{options.context} x {num_sequences(options.context)}, width {DIM}"
    print(f"Milliseconds forward and backward, {size}, over the products alone")
    print_row("kind", "name", ["products", "eager", "ratio", "compiled", "ratio"])
    for kind, name in components():
        if not options.only or {kind, name} & {*options.only}:
            seconds = measure(kind, name, options.context, eager=options.eager or not has_cpp_compiler())
            print_row(kind, name, cells(seconds))
            above += [f"{kind} {name}"] if seconds and max(seconds[1:]) > LIMIT * seconds[0] else []
    print(f"above {LIMIT:g} (*): {', '.join(above) or 'none'}")


if __name__ == "__main__":
    main()
