"""The length of a training run as a budget instead of a number of steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from archlab.config.domains import LARGEST, Positive
from archlab.errors import ConfigError

PATH = "train.budget"


@dataclass(frozen=True)
class Budget:
    """The budget of a run: tokens, FLOPs (forward and backward), or seconds of its optimizer steps; one of them."""

    tokens: Positive | None = None
    flops: Positive | None = None
    seconds: Positive | None = None

    @property
    def kind(self) -> str:
        """The one that is given, such as `tokens`; raise ConfigError where it is none or several."""
        given = [name for name, value in asdict(self).items() if value is not None]
        if len(given) != 1:
            names = " and ".join(given) or "nothing"
            raise ConfigError(PATH, f"names {names}; it takes one of tokens, flops and seconds")
        return given[0]

    @property
    def amount(self) -> float:
        """The number of tokens, FLOPs or seconds."""
        return float(getattr(self, self.kind))

    def steps(self, per_step: float) -> int:
        """Return how many whole steps fit, each of which costs `per_step`; raise ConfigError for none."""
        path, steps = f"{PATH}.{self.kind}", int(self.amount // per_step)
        if steps < 1:
            raise ConfigError(path, f"{self.amount:g} is less than one optimizer step, of {per_step:.4g} {self.kind}")
        if steps > LARGEST:
            raise ConfigError(path, f"{self.amount:g} is more than {LARGEST:g} steps, of {per_step:.4g} {self.kind}")
        return steps

    def to_plain(self) -> dict[str, float]:
        """Return it as YAML data."""
        return {self.kind: self.amount}

    def __str__(self) -> str:
        short = f"{self.amount:g}"
        return f"{short if float(short) == self.amount else repr(self.amount)} {self.kind}"
