"""The parameters of a model that are trained with settings of their own: `train.groups`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from archlab.config.domains import NonNegative, Positive
from archlab.config.param_roles import Role
from archlab.errors import ConfigError


@dataclass(frozen=True)
class ParamGroup:
    """Parameters by the pattern that their names match, by their declared role, or by both, and their settings.

    `lr_scale` multiplies the learning rate, and `weight_decay` replaces `train.weight_decay`, whatever
    `train.decay` says of the parameters. In a pattern `*` stands for any text.
    """

    match: str | None = None
    role: Role | None = None
    lr_scale: Positive | None = None
    weight_decay: NonNegative | None = None

    def has_name(self, name: str) -> bool:
        """Return whether a parameter's name is one of the group's."""
        return self.match is None or fnmatchcase(name, self.match)


def check_groups(groups: Sequence[ParamGroup], path: str) -> None:
    """Raise ConfigError for a group of no parameters, or without a setting of its own."""
    for index, group in enumerate(groups):
        if group.match is None and group.role is None:
            raise ConfigError(f"{path}[{index}]", "needs match, a pattern of names such as '*.norm.*', or role")
        if group.lr_scale is None and group.weight_decay is None:
            raise ConfigError(f"{path}[{index}]", "needs lr_scale or weight_decay, which its parameters are to have")
