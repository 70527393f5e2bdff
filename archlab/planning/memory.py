"""The memory of a training process on a CPU."""

from __future__ import annotations

from archlab.config.experiment import Experiment
from archlab.config.parallel import Layout
from archlab.modeling.step_trace import StepTrace
from archlab.runtime.memory import cpu_heap_bytes

# Memory of `archlab train` beside tensors, with torch 2.13 and Python 3.11 on Linux: about 310 MB for interpreter and
# libraries, 78 MB for torch's tracing modules, 75 MB for tracing a step, and libraries that the first step loads.
PROCESS_BYTES = 510 * 10**6
_BATCH_BYTES = 16  # of a token: input and target


def resident_bytes(trace: StepTrace, experiment: Experiment) -> int:
    """Return the peak resident bytes of `archlab train` on a CPU, interpreter and libraries included."""
    return trace.peak_bytes + process_bytes(trace.peak_bytes, trace.tokens, experiment.train.accumulate)


def process_bytes(tensors: int, tokens: int, accumulate: int) -> int:
    """Return the resident bytes of a process on a CPU that are no tensor's, where those of a step take so many."""
    # The batches of all micro-batches are read before the first forward pass, as their targets are counted.
    return PROCESS_BYTES + cpu_heap_bytes(tensors) - tensors + (accumulate - 1) * tokens * _BATCH_BYTES


def staged_bytes(own: int, layout: Layout) -> int:
    """Return the bytes of the copies that a rank writes a checkpoint from while it trains on.

    `own` are those of its weights and moments. A model that ranks do not divide is written before training continues;
    of one that they do, ranks with the same parts take turns to save them.
    """
    return own // (layout.replicate * layout.chunk) if layout.shard * layout.tensor > 1 else 0
