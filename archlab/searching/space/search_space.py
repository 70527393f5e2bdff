"""Search spaces: the varied knobs of a base experiment, the objectives, the constraints and the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.config import renames
from archlab.errors import ConfigError
from archlab.searching.space.constraints import Constraint
from archlab.searching.space.inner import Inner
from archlab.searching.space.ladder_keys import is_ladder
from archlab.searching.space.objectives import VALIDATION
from archlab.searching.space.promotion import PromotionConfig
from archlab.searching.space.seeds import seed_values
from archlab.searching.space.study_config import PROMOTION, StudyConfig
from archlab.searching.space.tasks import Tasks
from archlab.searching.variants.hold import Hold
from archlab.searching.variants.planned import PlannedObjective
from archlab.searching.variants.variant import HELD, Varied


@dataclass(frozen=True)
class Space:
    """A checked search space; a domain of None is the one that the component declares (`auto`).

    `data` is the YAML data of the space without its base, independent of the directory that it was read from; `planned`
    are the objectives that no training measures, by their names.
    """

    name: str
    base: config.UnresolvedExperiment
    vary: Mapping[str, Varied]
    objectives: Mapping[str, str]
    constraints: tuple[Constraint, ...]
    study: StudyConfig
    source: str
    data: Mapping[str, Any]
    planned: Mapping[str, PlannedObjective] = field(default_factory=dict)
    hold: Hold | None = None
    inner: Inner | None = None
    compare: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    tasks: Tasks = field(default_factory=dict)

    @property
    def varied(self) -> dict[str, Varied]:
        """The domain of every path that a trial has a value of: the varied ones, and the one that `hold` solves for."""
        held = {} if self.hold is None else {self.hold.by: HELD}
        return {**held, **self.vary}

    @property
    def is_ladder(self) -> bool:
        """Whether the space has rungs of growing size."""
        return is_ladder(self.data)

    @property
    def objective(self) -> str:
        """The first objective, by which the best trial is chosen."""
        return next(iter(self.objectives))

    @property
    def can_prune(self) -> bool:
        """Whether trials can be pruned: the only objective is a validation metric, reported during training.

        Not where it is a mean over tasks, which is known at the end.
        """
        return len(self.objectives) == 1 and self.objective.startswith(VALIDATION) and not self.tasks

    @property
    def plugins(self) -> tuple[str, ...]:
        """The plugins of the space and of its base experiment."""
        return tuple(dict.fromkeys((*self.data.get("plugins", ()), *self.base.plugins)))

    @property
    def promotion(self) -> PromotionConfig | None:
        """How trials pause and are promoted, if they do."""
        pruner = self.study.pruner
        is_ours = pruner is not None and pruner.type == PROMOTION
        return PromotionConfig.parse(pruner.options, "study.pruner") if pruner and is_ours else None

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The steps at which trials pause, none unless they do."""
        if self.promotion is None:
            return ()
        train = self.base.resolve().train
        return self.promotion.rungs(train.steps, train.eval_every)

    @property
    def sign(self) -> float:
        """The sign of the first objective."""
        return self.sign_of(self.objective)

    def sign_of(self, metric: str) -> float:
        """Return -1 where a larger value of an objective is better, else 1."""
        return -1.0 if self.objectives[metric] == "maximize" else 1.0

    @property
    def pruned_by(self) -> str:
        """The objective that is reported during training: the first validation metric, if there is one."""
        return next((name for name in self.objectives if name.startswith(VALIDATION)), self.objective)

    @property
    def runs_per_trial(self) -> int:
        """The most training runs that a trial has."""
        return (self.inner.trials if self.inner else 1) + self.study.runs_per_trial - 1

    def seed_values(self) -> dict[str, dict[str, Any]]:
        """Return the values of the varied knobs in the experiments that are tried first, by their names.

        Raises ConfigError for one that the space does not have.
        """
        try:
            return seed_values(self.seeds, Path(self.source).parent, self.varied, self.base)
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, error.source or self.source) from None

    def to_plain(self) -> dict[str, Any]:
        """Return the space as YAML data whose base is the file base.yaml in the same directory."""
        data = {"format": renames.current().format, "base": "base.yaml", **self.data}
        return {**data, "objectives": self._plain_objectives(), "study": self.study.to_plain()}

    def _plain_objectives(self) -> dict[str, Any]:
        named = {name: self.planned.get(name) for name in self.objectives}
        return {o.metric if o else name: o.to_plain() if o else self.objectives[name] for name, o in named.items()}

    def base_to_plain(self) -> dict[str, Any]:
        """Return the base experiment as YAML data without `extends`."""
        plugins = {"plugins": list(self.base.plugins)} if self.base.plugins else {}
        return {"format": renames.current().format, **plugins, **self.base.tree}
