"""Rules by which batch, learning rate, warm-up and beta2 follow a rung's size, by default as in OLMo-core's ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config.domains import NonNegative, Positive
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError

# OLMo-core's ladder: batch with the 2/3 power of the parameters, learning rate with the -1/3, a warm-up of as many
# tokens as parameters, and beta2 0.95 from batches of 524,288 tokens on.
_BATCH_POWER, _LR_POWER = 2 / 3, -1 / 3
_LARGE_BATCH, _BETA2_LARGE, _BETA2_SMALL = 524_288, 0.95, 0.99
_LONGEST_WARMUP = 0.1  # of the steps: tokens by parameters alone are too many for small models
_NAMES = ("batch", "lr", "warmup", "beta2")
_SETS = {
    "batch": ("train.batch_size", "train.accumulate"),
    "lr": ("train.lr",),
    "warmup": ("train.warmup",),
    "beta2": ("train.beta2",),
}


@dataclass(frozen=True)
class PowerRule:
    """`value * (params / at) ** power`; a value or size of None is the base experiment's own."""

    power: float
    at: float | None = None
    value: float | None = None

    def __call__(self, params: float, own_value: float, own_params: float) -> float:
        """Return the value at a number of parameters."""
        value, at = self.value or own_value, self.at or own_params
        return float(value * (params / at) ** self.power)


@dataclass(frozen=True)
class Rules:
    """The rules of a ladder; one that is None leaves the experiment's own value, and so does `has_beta2` false.

    `batch` is in tokens an update, `warmup` in tokens a parameter.
    """

    batch: PowerRule | None = PowerRule(_BATCH_POWER)
    lr: PowerRule | None = PowerRule(_LR_POWER)
    warmup: float | None = 1.0
    has_beta2: bool = True

    def set_paths(self) -> tuple[str, ...]:
        """Return the settings that a rule sets to a number of its own, and not in proportion to a candidate's."""
        names = ["batch" if self.batch else "", "warmup" if self.warmup is not None else ""]
        names += ["lr" if self.lr and self.lr.value is not None else "", "beta2" if self.has_beta2 else ""]
        return tuple(path for name in names if name for path in _SETS[name])

    def train(self, settings: Mapping[str, Any], params: float, own_params: float, tokens: float) -> dict[str, Any]:
        """Return the settings of training at a number of parameters and tokens, without `train.` in their names."""
        batch, accumulate, sequences = self._batch(settings, params, own_params)
        tokens_per_step = sequences * settings["context"]
        steps = max(1, round(tokens / tokens_per_step))
        new: dict[str, Any] = {"steps": steps, "batch_size": batch, "accumulate": accumulate}
        if self.lr is not None:
            new["lr"] = float(f"{self.lr(params, settings['lr'], own_params):.4g}")
        if self.warmup is not None:
            wanted = round(self.warmup * params / tokens_per_step)
            new["warmup"] = min(wanted, math.floor(_LONGEST_WARMUP * steps))
        if self.has_beta2:
            new["beta2"] = _BETA2_LARGE if tokens_per_step >= _LARGE_BATCH else _BETA2_SMALL
        return new

    def _batch(self, settings: Mapping[str, Any], params: float, own_params: float) -> tuple[int, int, int]:
        """Return micro-batch, accumulation, and sequences an update; the base's micro-batch is the largest."""
        largest, context = settings["batch_size"], settings["context"]
        own = largest * settings["accumulate"] * context
        wanted = self.batch(params, own, own_params) if self.batch is not None else own
        sequences = max(1, round(wanted / context))
        accumulate = math.ceil(sequences / largest)
        batch = round(sequences / accumulate)
        return batch, accumulate, batch * accumulate


def parse_rules(data: Any, *, transfers: bool) -> Rules:
    """Read the `rules:` section; `transfers`: whether a parametrization transfers the learning rate to other widths."""
    rules = data if data is not None else {}
    if rules == "none":
        return Rules(None, None, None, False)
    if not isinstance(rules, Mapping):
        raise ConfigError("rules", f"{rules!r} is neither a mapping of rules nor none")
    reject_unknown(rules, _NAMES, "rules")
    lr_default = None if transfers else {"power": _LR_POWER}
    return Rules(
        batch=_parse_power(rules.get("batch", {"power": _BATCH_POWER}), "rules.batch", _BATCH_POWER),
        lr=_parse_power(rules.get("lr", lr_default), "rules.lr", _LR_POWER),
        warmup=coerce(rules.get("warmup", 1.0), NonNegative | None, "rules.warmup"),
        has_beta2=_parse_beta2(rules.get("beta2", "olmo")),
    )


def _parse_power(data: Any, path: str, power: float) -> PowerRule | None:
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a rule {{value, at, power}}, nor null")
    reject_unknown(data, ("value", "at", "power"), path)
    numbers = {name: coerce(data.get(name), Positive | None, f"{path}.{name}") for name in ("value", "at")}
    return PowerRule(coerce(data.get("power", power), float, f"{path}.power"), numbers["at"], numbers["value"])


def _parse_beta2(data: Any) -> bool:
    if data not in ("olmo", None):
        raise ConfigError("rules.beta2", f"{data!r} is neither olmo nor null")
    return data is not None
