"""The training configuration: the `train:` section of an experiment."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from archlab.config.domains import Count, Fraction, Index, NonNegative, Positive, Range
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.errors import ConfigError

# At 1 the bias correction of Adam would divide by zero.
Beta: TypeAlias = Annotated[float, Range(low=0, high=0.999999)]


@dataclass(frozen=True)
class TrainConfig:
    """Optimization, evaluation and hardware; an optimizer step has `batch_size * accumulate * context` tokens.

    `eval_every: 0` and `checkpoint_every: 0` mean at the end only; `eval_tokens: null` is the whole split. Under a
    `parametrization` other than standard, `lr` and initialization are those of a model as wide as `base_width`, with
    the sizes of `base_model` by path, and of `base_depth` layers.
    """

    steps: Count = 1000
    batch_size: Count = 8
    context: Count = 512
    accumulate: Count = 1
    lr: Positive = 1e-3
    warmup: Index = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    end_lr_ratio: Fraction = 0.1
    weight_decay: NonNegative = 0.1
    decay: Literal["all", "matrices"] = "matrices"
    beta1: Beta = 0.9
    beta2: Beta = 0.98
    eps: Positive = 1e-8
    clip: Positive | None = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "off", "block", "model"] = "auto"
    checkpoint_activations: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Annotated[int, Range(low=0, high=2**31)] = 0
    eval_every: Index = 0
    eval_tokens: Count | None = None
    checkpoint_every: Index = 0
    keep_checkpoints: Count = 2
    log_every: Count = 10
    tensorboard: bool = True
    parametrization: Literal["standard", "mup", "completep"] = "standard"
    base_width: Count | None = None
    base_depth: Count | None = None
    base_model: dict[str, Count] | None = None


def train_knobs() -> dict[str, Knob]:
    """Return the settings of `train:` as knobs, with types and defaults."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    return {f.name: Knob(f.name, hints[f.name], f.default) for f in fields(TrainConfig) if f.default is not MISSING}


def parse_train(value: Any, path: str = "train") -> TrainConfig:
    """Parse the `train:` section; raise ConfigError for unknown settings and invalid values."""
    if not isinstance(value, dict):
        raise ConfigError(path, f"{value!r} is not a mapping of settings")
    knobs = train_knobs()
    reject_unknown(value, list(knobs), path)
    return TrainConfig(**{key: coerce(setting, knobs[key].type, f"{path}.{key}") for key, setting in value.items()})
