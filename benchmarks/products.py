"""Each component, forward and backward, against its own matrix products alone, 1024 tokens x batch 4 of width 256.

python benchmarks/products.py [--only NAME-OR-KIND ...] [--eager]

One thread, and seconds of the processor: waiting for other processes does not count, what they do to the caches does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _measure import Step
from _models import DIM
from _products import record
from torch import Tensor, nn

from archlab.config.registry import names
from archlab.config.spec import parse
from archlab.modeling.build import configure_backends
from archlab.runtime.toolchain import has_cpp_compiler

TOKENS, BATCH, ROUNDS, LIMIT = 1024, 4, 3, 4.0
# What a component is measured as: itself, or the smallest part of a model that it occurs in.
HOSTS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "mixer": ("mixer", lambda name: {"type": name}),
    "attention": ("mixer", lambda name: {"type": "attention", "attention": name}),
    "ffn": ("ffn", lambda name: {"type": name}),
    "ema": ("mixer", lambda name: {"type": "ema", "ema": name}),
    "norm": ("layer", lambda name: {"type": "block", "mixer": "attention", "norm": name, "ffn_norm": name}),
    "residual": ("layer", lambda name: {"type": "block", "mixer": "attention", "residual": name}),
}


def layer_of(kind: str, name: str) -> nn.Module:
    """Return the layer that a component is measured as, with its default knobs."""
    host, tree = HOSTS[kind]
    factory = parse(tree(name), host, host).factory()
    layer: nn.Module = factory(DIM, 1) if host == "layer" else factory(DIM)
    return layer


def training_call(layer: nn.Module) -> Step:
    """Return a function that runs a layer forward and backward."""
    num_streams = getattr(layer, "num_streams", None)
    shape = (BATCH, TOKENS, DIM) if num_streams is None else (BATCH, TOKENS, num_streams, DIM)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs, dy = [x, *layer.parameters()], torch.ones(shape)

    def step() -> None:
        output = layer(x)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        if y.requires_grad:
            torch.autograd.grad(y, inputs, dy, allow_unused=True)

    return step


def compiled_call(kind: str, name: str) -> Step:
    """Return the same, compiled as a block of a model is."""
    torch.compiler.reset()  # or a class that was met in many forms is at its limit of graphs
    layer = layer_of(kind, name)
    layer.compile(fullgraph=True)
    return training_call(layer)


def best_cpu_seconds(*steps: Step) -> list[float]:
    """Return each step's shortest time on the processor over some interleaved rounds, after a call to warm up."""
    best = [float("inf")] * len(steps)
    for step in steps:
        step()
    for _ in range(ROUNDS):
        for index, step in enumerate(steps):
            begin = time.process_time()
            step()
            best[index] = min(best[index], time.process_time() - begin)
    return best


def measure(kind: str, name: str, *, eager: bool) -> list[float]:
    """Return seconds of the products, of the layer and of the compiled layer; none where there are no products."""
    step = training_call(layer_of(kind, name))
    products = record(step)
    if not products.steps:
        return []
    others = () if eager else (compiled_call(kind, name),)
    return best_cpu_seconds(products.run, step, *others)


def cells(seconds: Sequence[float]) -> list[str]:
    """Return milliseconds of the products, and milliseconds and ratio of each form, marked above the limit."""
    if not seconds:
        return ["no products"]
    products, *forms = seconds
    marks = ["*" if form > LIMIT * products else "" for form in forms]
    ratios = [[f"{1e3 * form:.1f}", f"{form / products:.2f}{mark}"] for form, mark in zip(forms, marks, strict=True)]
    return [f"{1e3 * products:.1f}", *(cell for pair in ratios for cell in pair)]


def print_row(kind: str, name: str, values: Sequence[str]) -> None:
    """Print one row of the table, of 80 columns."""
    print(f"{kind:<10}{name:<21}" + "".join(f"{value:>10}" for value in values).rstrip(), flush=True)


def main() -> None:
    """Measure the components of some names or kinds, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="components' names, or kinds")
    parser.add_argument("--eager", action="store_true", help="leave out what torch.compile makes of them")
    options = parser.parse_args()
    known = {*HOSTS, *(name for kind in HOSTS for name in names(kind))}
    wrong = [name for name in options.only or () if name not in known]
    if wrong:
        parser.error(f"no component and no kind {wrong[0]!r}; kinds are {', '.join(HOSTS)}")
    configure_backends()
    torch.set_num_threads(1)
    print(f"Milliseconds forward and backward, {TOKENS} x {BATCH}, width {DIM}, over the products alone")
    print_row("kind", "name", ["products", "eager", "ratio", "compiled", "ratio"])
    chosen = [
        (kind, name) for kind in HOSTS for name in names(kind) if not options.only or {kind, name} & {*options.only}
    ]
    above = []
    for kind, name in chosen:
        seconds = measure(kind, name, eager=options.eager or not has_cpp_compiler())
        print_row(kind, name, cells(seconds))
        above += [f"{kind} {name}"] if seconds and max(seconds[1:]) > LIMIT * seconds[0] else []
    print(f"above {LIMIT:g} (*): {', '.join(above) or 'none'}")


if __name__ == "__main__":
    main()
