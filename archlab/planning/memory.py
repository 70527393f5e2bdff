"""The memory of a training process on a CPU."""

from __future__ import annotations

from archlab.config.experiment import Experiment
from archlab.modeling.step_trace import StepTrace
from archlab.runtime.memory import cpu_heap_bytes

# What `archlab train` takes beside tensors, with torch 2.13 and Python 3.11 on Linux: about 310 MB for interpreter and
# libraries, 78 MB for what torch loads to trace, 75 MB for tracing a step, and what the first step loads.
PROCESS_BYTES = 510 * 10**6
_BATCH_BYTES = 16  # of a token: input and target


def resident_bytes(trace: StepTrace, experiment: Experiment) -> int:
    """Return the peak resident bytes of `archlab train` on a CPU, interpreter and libraries included."""
    # The batches of all micro-batches are read before the first forward pass, as their targets are counted.
    later_batches = (experiment.train.accumulate - 1) * trace.tokens * _BATCH_BYTES
    return PROCESS_BYTES + cpu_heap_bytes(trace.peak_bytes) + later_batches
