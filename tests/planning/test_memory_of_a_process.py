from __future__ import annotations

import pytest
from conftest import Tiny

from archlab.modeling.step_trace import trace_step
from archlab.planning.memory import PROCESS_BYTES, resident_bytes


@pytest.mark.slow
def test_a_process_takes_more_than_its_tensors(tiny: Tiny) -> None:
    experiment = tiny()
    trace = trace_step(experiment)
    assert resident_bytes(trace, experiment) > PROCESS_BYTES + trace.peak_bytes
    assert sum(trace.params_by_part.values()) == trace.params
    assert trace.peak_bytes > trace.weight_bytes + trace.gradient_bytes + trace.optimizer_bytes
