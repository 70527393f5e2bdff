"""Objectives that are measured on a finished run, besides the metrics of its task."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.modeling.backbone import is_causal
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.state import max_context
from archlab.runtime.timing import time_call
from archlab.storage.trained_model import load_trained
from archlab.training import metrics


def require_decoding(experiment: Experiment, model: nn.Module) -> None:
    """Raise ArchlabError if a model does not decode tokens, so that it has no latency."""
    if experiment.model.knobs.get("vocab_size") is None or not is_causal(model):
        raise ArchlabError("decode_us_per_token: this model does not decode tokens one at a time")


def decode_us_per_token(run: Path, tokens: int = 64) -> float:
    """Return the median decode latency per token of a run's model in microseconds, after `tokens` warm-up steps."""
    experiment, model = load_trained(run)
    require_decoding(experiment, model)
    tokens = min(tokens, (max_context(model) or 2 * tokens) // 2)
    model = model.to(experiment.train.device)
    token_11 = torch.zeros(1, 1, dtype=torch.int64, device=device_of(model))
    state: Any = model.init_state(1)  # type: ignore[operator]

    def step() -> None:
        nonlocal state
        _, state = model(token_11, state)

    with eval_mode(model), torch.inference_mode():
        times = [time_call(step, token_11.device) for _ in range(2 * tokens)]
    return statistics.median(times[tokens:]) * 1e6


def tokens_per_s(run: Path) -> float | None:
    """Return the median speed of a run's logged steps."""
    speeds = [record["tokens_per_s"] for record in metrics.read(run) if record.get("tokens_per_s")]
    return statistics.median(speeds) if speeds else None
