"""The training configuration: the `train:` section of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from archlab.config.alternatives import refuse_both
from archlab.config.budget import Budget
from archlab.config.domains import Beta, Count, Fraction, Index, NonNegative, Positive, Range
from archlab.config.param_groups import ParamGroup, check_groups
from archlab.config.profile_steps import ProfileSteps
from archlab.config.registry import Factory, Slot
from archlab.config.schema import Knob, parse_settings, section_of, settings_of, settings_to_plain
from archlab.config.spec import Spec, parse
from archlab.config.start_from import StartFrom
from archlab.errors import ConfigError

OPTIMIZER_PATH = "train.optimizer"
OPTIMIZER = Slot("optimizer", "adamw")
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
# Left out of plain data while they are not in use: an experiment without them then keeps its earlier data.
_OFF_BY_DEFAULT = (
    *("warmup_fraction", "budget", "start_from", "checkpoint_at"),
    *("base_width", "base_depth", "base_model"),
    *("loggers", "profile", "optimizer", "groups"),
)


@dataclass(frozen=True)
class TrainConfig:
    """Optimization, evaluation and hardware; an optimizer step has `batch_size * accumulate * context` tokens.

    `eval_every: 0` and `checkpoint_every: 0` mean at the end only; `eval_tokens: null` is the whole split. While a
    `budget` of FLOPs or seconds is not resolved (archlab.modeling.budget), `steps` is 0. Under a `parametrization`
    other than standard, `lr` and initialization are those of a model as wide as `base_width`, with the sizes of
    `base_model` by path, and of `base_depth` layers. `documents: separate` starts every document with a fresh state,
    which other tools call packing with intra-document masking; `joined` lets a context continue from one to the next.
    """

    steps: Count = 1000
    batch_size: Count = 8
    context: Count = 512
    accumulate: Count = 1
    lr: Positive = 1e-3
    warmup: Index = 100
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    end_lr_ratio: Fraction = 0.1
    weight_decay: NonNegative = 0.1
    decay: Literal["all", "matrices"] = "matrices"
    beta1: Beta = 0.9
    beta2: Beta = 0.98
    eps: Positive = 1e-8
    optimizer: Spec | Slot = OPTIMIZER
    groups: list[ParamGroup] | None = None
    clip: Positive | None = 1.0
    precision: Precision = "auto"
    compile: Literal["auto", "off", "block", "model"] = "auto"
    checkpoint_activations: bool | Literal["selective"] = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Annotated[int, Range(low=0, high=2**31)] = 0
    eval_every: Index = 0
    eval_tokens: Count | None = None
    checkpoint_every: Index = 0
    keep_checkpoints: Count = 2
    log_every: Count = 10
    tensorboard: bool = True
    decay_fraction: Fraction = 0.2
    warmup_fraction: Fraction | None = None
    budget: Budget | None = None
    start_from: StartFrom | None = None
    checkpoint_at: list[Count] | None = None
    parametrization: Literal["standard", "mup", "completep"] = "standard"
    base_width: Count | None = None
    base_depth: Count | None = None
    base_model: dict[str, Count] | None = None
    loggers: list[str] | None = None
    profile: ProfileSteps | None = None
    documents: Literal["joined", "separate"] = "joined"

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens of an optimizer step."""
        return self.batch_size * self.accumulate * self.context

    @property
    def optimizer_name(self) -> str:
        """The name of the optimizer in YAML."""
        return str(self.optimizer.name if isinstance(self.optimizer, Spec) else self.optimizer.default)

    @property
    def optimizer_factory(self) -> Factory:
        """A callable that takes the wiring of an optimizer, and builds it."""
        return self.optimizer.factory() if isinstance(self.optimizer, Spec) else self.optimizer

    @property
    def warmup_steps(self) -> int:
        """The number of steps of the warm-up."""
        return self.warmup if self.warmup_fraction is None else round(self.warmup_fraction * self.steps)

    @property
    def decay_start(self) -> int:
        """The step, counted from 0, at which the decay of the schedule wsd begins."""
        return round(self.steps * (1 - self.decay_fraction))

    def with_steps(self, steps: int) -> TrainConfig:
        """Return the settings with a budget resolved to steps; raise ConfigError where they do not fit the others."""
        resolved = replace(self, steps=steps)
        if resolved.warmup_steps > steps:
            problem = f"{self.warmup} is more than the {steps} steps of train.budget; or set train.warmup_fraction"
            raise ConfigError("train.warmup", problem)
        _check_checkpoints(resolved)
        return replace(resolved, budget=None)

    def to_plain(self) -> dict[str, Any]:
        """Return the settings as YAML data that `parse_train` reads back, without unused settings."""
        every = asdict(replace(self, optimizer=OPTIMIZER, groups=None)) | {"optimizer": self._optimizer_to_plain()}
        every["groups"] = [settings_to_plain(group) for group in self.groups] if self.groups else None
        plain = {key: value for key, value in every.items() if key not in _OFF_BY_DEFAULT or value is not None}
        for name, section in (("budget", self.budget), ("start_from", self.start_from)):
            plain |= {name: section.to_plain()} if section else {}
        unused = {
            "steps": self.budget is not None,
            "warmup": self.warmup_fraction is not None,
            "decay_fraction": self.schedule != "wsd",
            "parametrization": self.parametrization == "standard",
            "documents": self.documents == "joined",
        }
        return {key: value for key, value in plain.items() if not unused.get(key)}

    def _optimizer_to_plain(self) -> dict[str, Any] | None:
        """Return the optimizer as YAML data, or None for the default one, without which runs were written before."""
        plain = self.optimizer.to_plain() if isinstance(self.optimizer, Spec) else None
        return None if plain == parse({}, OPTIMIZER.kind, OPTIMIZER_PATH, OPTIMIZER.default).to_plain() else plain


def train_knobs() -> dict[str, Knob]:
    """Return the settings of `train:` as knobs, with types and defaults."""
    return settings_of(TrainConfig)


def train_knob(parts: Sequence[str | int]) -> Knob | None:
    """Return the knob at a path below `train`, such as ["budget", "tokens"], or None if there is no such knob."""
    knobs = train_knobs()
    for part in parts[:-1]:
        section = section_of(knobs[str(part)].type) if part in knobs else None
        knobs = settings_of(section) if section else {}
    return knobs.get(str(parts[-1])) if parts else None


def parse_train(value: Any, path: str = "train") -> TrainConfig:
    """Parse the `train:` section; raise ConfigError for unknown settings and invalid values."""
    # A component, whose schema is that of its constructor.
    others = {key: each for key, each in value.items() if key != "optimizer"} if isinstance(value, Mapping) else value
    train = parse_settings(others, TrainConfig, path)
    refuse_both(value, path)
    if value.get("optimizer") is not None:
        optimizer = parse(value["optimizer"], OPTIMIZER.kind, f"{path}.optimizer", OPTIMIZER.default)
        train = replace(train, optimizer=optimizer)
    check_groups(train.groups or (), f"{path}.groups")
    profile = train.profile
    if profile is not None and train.budget is None and profile.last > train.steps:
        problem = f"update {profile.last} is past the last step, {train.steps}"
        raise ConfigError(f"{path}.profile", problem)
    start = train.start_from
    if start is not None and start.load == "everything" and start.match != "strict":
        problem = f"{start.match!r} goes with load: weights; everything is of the same model"
        raise ConfigError(f"{path}.start_from.match", problem)
    if train.budget is None:
        _check_checkpoints(train)
        return train
    if train.budget.kind != "tokens":
        return replace(train, steps=0)
    steps = train.budget.steps(train.tokens_per_step)
    return replace(train.with_steps(steps), budget=train.budget)  # kept: the written YAML must follow the batch size


def _check_checkpoints(train: TrainConfig) -> None:
    for index, step in enumerate(train.checkpoint_at or ()):
        if step > train.steps:
            raise ConfigError(f"train.checkpoint_at[{index}]", f"{step} is past the last step, {train.steps}")
