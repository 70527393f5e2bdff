"""Declarations of a component's parameters: how each scales with the model, and how devices share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

from archlab.errors import ArchlabError, did_you_mean

Role: TypeAlias = Literal["input", "hidden", "output", "vector"]
Placement: TypeAlias = Literal["column", "row", "heads", "vocab", "none"]


@dataclass(frozen=True)
class Param:
    """The declaration of one parameter, under its name in the component; a `*` in a name matches any text.

    - `role`: `hidden`, a matrix from features to features; `input`, from a size that does not grow with the model (a
      vocabulary, a patch, a rank) to features, or vectors added to them; `output`, from features to a size that does
      not; `vector`, everything else: scales, biases, decays, filters of a channel.
    - `tensor`: the dimension that tensor parallelism splits: the outputs (`column`) or inputs (`row`) of a matrix, or
      the channels of a vector (`column`), heads (axis 0), the vocabulary (axis 0), or nothing.
    - `branch`: whether the component's output, as the branch of a residual, is proportional to the parameter and the
      others so marked: depth scales these.
    - `scale`: powers of the growth of numbers that the component or its children have as attributes, by which the
      parameter is multiplied: `{"head_dim": -0.5}` for a query whose scores are divided by sqrt(head_dim).
    - `fan_in`, `fan_out`: the axes of a matrix's inputs and outputs, where they are not the last and the first one;
      `fan_out` is that of a vector's channels, too.
    """

    role: Role
    tensor: Placement = "none"
    branch: bool = False
    scale: Mapping[str, float] = field(default_factory=dict)
    fan_in: int = -1
    fan_out: int = 0

    def __post_init__(self) -> None:
        """Raise ArchlabError for a role or a placement that there is none of."""
        for value, known in ((self.role, get_args(Role)), (self.tensor, get_args(Placement))):
            if value not in known:
                raise ArchlabError(f"Param: {value!r} is not one of {', '.join(known)}{did_you_mean(value, known)}")


def find_param(declared: Mapping[str, Param], name: str) -> str | None:
    """Return the declared name that a parameter has, or the first pattern that it matches, or None."""
    if name in declared:
        return name
    return next((pattern for pattern in declared if fnmatchcase(name, pattern)), None)


def check_params(declared: Mapping[str, Param]) -> None:
    """Raise ArchlabError unless a mapping has names of parameters, and a Param for each."""
    for name, param in declared.items():
        if not isinstance(name, str) or not isinstance(param, Param):
            raise ArchlabError(f"params={{{name!r}: {param!r:.60}}} is not a parameter's name with a Param")
