"""An update of each system on a GPU, with Triton's kernels and without, and of transformers and fla beside: one table.

python benchmarks/gpu_table.py [--quick] [--seconds N] [--machine]
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from _models import training_step
from torch import nn

from archlab.config.experiment import Experiment, load
from archlab.errors import one_line
from archlab.modeling.build import build
from archlab.modeling.compile import compile_model
from archlab.modeling.cost import estimate_cost
from archlab.ops.dispatch import reference_only
from archlab.planning.this_device import peak_flops
from archlab.runtime.timing import time_call

PACKAGES = ("torch", "triton", "transformers", "flash-linear-attention")
# Small enough for every card: a few layers of the width that the published model has.
SYSTEMS = (
    *("llama2_7b", "megalodon_200m", "mega_wt103", "mamba_130m", "mamba2_130m", "rwkv4_169m", "rwkv6_1b6", "rwkv7_0b1"),
    *("gla_1b3", "retnet_1b3", "delta_net_1b3", "gated_delta_net_1b3", "linear_attention_1b3", "s4d_wt103"),
)
COMPILED = ("llama2_7b", "megalodon_200m")  # compiling takes a minute or so of the ten
QUICK = ("llama2_tiny", "megalodon_tiny")
VOCAB_SIZE = 32_000
# Classes of transformers and fla, and how they call a model's sizes, by our experiment.
PEERS = {
    "llama2_7b": ("transformers", "Llama", {"intermediate_size": 11008, "num_attention_heads": 32}),
    "mamba_130m": ("transformers", "Mamba", {}),
    "mamba2_130m": ("fla", "Mamba2", {"num_heads": 24, "head_dim": 64}),
    "rwkv7_0b1": ("fla", "RWKV7", {"head_dim": 64}),
    "gla_1b3": ("fla", "GLA", {"num_heads": 4, "intermediate_size": 5632}),
    "retnet_1b3": ("fla", "RetNet", {"num_heads": 8, "intermediate_size": 4096}),
    "delta_net_1b3": ("fla", "DeltaNet", {"num_heads": 16, "intermediate_size": 5632}),
    "gated_delta_net_1b3": ("fla", "GatedDeltaNet", {"num_heads": 6, "head_dim": 256, "intermediate_size": 5632}),
    "llama2_tiny": ("transformers", "Llama", {"intermediate_size": 128, "num_attention_heads": 2}),
}


@dataclass(frozen=True)
class Size:
    """The size of every row, and the device and precision."""

    device: torch.device
    precision: str
    layers: int
    context: int
    batch_size: int
    rounds: int

    @property
    def tokens(self) -> int:
        """The tokens of an update."""
        return self.context * self.batch_size


FULL = Size(torch.device("cuda"), "bfloat16", 4, 2048, 4, 3)


def quick(device: str) -> Size:
    """Return a size at which the whole table takes seconds on a CPU."""
    return Size(torch.device(device), "float32", 2, 64, 1, 1)


@dataclass(frozen=True)
class Measured:
    """Tokens per second of an update, the most bytes on the device, and the loss of the first."""

    tokens_per_s: float
    memory: int
    loss: float


def experiment_of(name: str, size: Size) -> Experiment:
    """Return a system's experiment in a few layers, with one vocabulary for all."""
    vocabulary = 256 if size.precision == "float32" else VOCAB_SIZE
    sizes = [f"model.vocab_size={vocabulary}", f"model.layers[0].repeat={size.layers}"]
    training = [f"train.context={size.context}", f"train.batch_size={size.batch_size}", "train.accumulate=1"]
    experiment = load(name, ["task=stdlib", "parallel=null", *sizes, *training])
    if experiment.model.to_plain().get("vocab_size") != vocabulary:
        raise ValueError(f"{name}: no vocabulary")
    return experiment


def measure(
    make: Callable[[], nn.Module], vocabulary: int, size: Size, kernels: AbstractContextManager[None]
) -> Measured:
    """Make updates of a model on the same tokens, and return the fastest."""
    torch.manual_seed(0)
    token_ids = torch.randint(vocabulary, (size.batch_size, size.context + 1)).to(size.device)
    on_gpu = size.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with kernels:
        step = training_step(make().to(size.device), token_ids, precision=size.precision)
        loss = float(step())
        best = min(time_call(step, size.device) for _ in range(size.rounds))
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    del step
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return Measured(size.tokens / best, memory, loss)


def own_model(experiment: Experiment, compiled: bool) -> nn.Module:
    """Return one of archlab's models; the seed makes it the same each time."""
    model = build(experiment.model, "cpu", seed=0)
    compile_model(model, "block" if compiled else "off")
    return model


def peer_model(name: str, experiment: Experiment) -> nn.Module:
    """Return the model of transformers or fla of the same sizes; ImportError where it is not installed."""
    package, family, options = PEERS[name]
    module: Any = __import__("fla.models" if package == "fla" else package, fromlist=[f"{family}Config"])
    plain = experiment.model.to_plain()
    sizes = {"hidden_size": plain["dim"], "vocab_size": plain["vocab_size"], "use_cache": False}
    config = getattr(module, f"{family}Config")(**sizes, num_hidden_layers=plain["layers"][0]["repeat"], **options)
    model: nn.Module = getattr(module, f"{family}ForCausalLM")(config)
    return model


def rows_of(name: str, size: Size) -> Iterator[tuple[str, ...]]:
    """Yield a system's rows: with its kernels, without them, compiled, and its peer."""
    experiment = experiment_of(name, size)
    vocabulary = int(experiment.model.to_plain()["vocab_size"])
    peak, cost = peak_flops(size.device.type, size.precision), estimate_cost(experiment)

    def row(what: str, found: Measured, other: Measured | None = None) -> tuple[str, ...]:
        mfu = "" if peak is None else f"{found.tokens_per_s * cost.flops_per_token / peak:.1%}"
        memory = f"{found.memory / 1e9:.2f}" if found.memory else ""
        difference = "" if other is None else f"{abs(found.loss - other.loss):.1e}"
        return (name, what, f"{found.tokens_per_s:,.0f}", mfu, memory, f"{found.loss:.4f}", difference)

    def try_case(
        what: str, make: Callable[[], nn.Module], kernels: AbstractContextManager[None], other: Measured | None = None
    ) -> tuple[tuple[str, ...], Measured | None]:
        try:
            found = measure(make, vocabulary, size, kernels)
        except ImportError as error:
            return (name, what, f"not installed: {error.name}", *[""] * 4), None
        except Exception as error:  # of one row; the others are worth their minutes all the same
            return (name, what, f"failed: {type(error).__name__}: {one_line(error)}"[:60], *[""] * 4), None
        return row(what, found, other), found

    first, own = try_case("kernels", lambda: own_model(experiment, False), nullcontext())
    yield first
    yield try_case("PyTorch", lambda: own_model(experiment, False), reference_only(), own)[0]
    if name in COMPILED:
        yield try_case("kernels, compiled", lambda: own_model(experiment, True), nullcontext(), own)[0]
    if name in PEERS:
        yield try_case(PEERS[name][0], lambda: peer_model(name, experiment), nullcontext())[0]


HEADINGS = ("system", "by", "tokens/s", "MFU", "GB", "loss", "difference")


def table(names: tuple[str, ...], size: Size, seconds: float) -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is measured; systems that the time does not allow are named."""
    yield _line(HEADINGS)
    begin = time.monotonic()
    for index, name in enumerate(names):
        if time.monotonic() - begin > seconds:
            yield f"no time for {', '.join(names[index:])}"
            return
        yield from map(_line, rows_of(name, size))


def _line(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, (22, 19, 12, 8, 8, 9, 10), strict=True)).rstrip()


def describe_machine() -> str:
    """Return the device and the versions that a table is of, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return ", ".join([device, *map(_version, PACKAGES)])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    """Print the machine, or the table of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--machine", action="store_true")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if options.machine:
        print(describe_machine())
    if not has_gpu and not options.quick:
        print("no CUDA device: this script is for a machine with a GPU; --quick tries it without one", file=sys.stderr)
        sys.exit(2)
    if options.machine:
        return
    size, names = (quick("cuda" if has_gpu else "cpu"), QUICK) if options.quick else (FULL, SYSTEMS)
    print(f"{describe_machine()}: {size.batch_size} x {size.context} tokens, {size.layers} layers, {size.precision}")
    for line in table(names, size, options.seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
