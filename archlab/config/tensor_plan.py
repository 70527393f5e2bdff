"""Declarations of a component's division over the axis `tensor`, beside the placements of its parameters."""

from __future__ import annotations

from dataclasses import dataclass

from archlab.errors import ArchlabError


@dataclass(frozen=True)
class TensorPlan:
    """How the code of a component is divided over n ranks; `Param.tensor` says it of its parameters.

    - `counts`: attributes that each rank divides by n, with dots for nested ones: `num_heads`,
      `shape.num_kv_heads`. n has to divide each of them, and the attribute of a rank is the quotient.
    - `first`: an attribute, 0 by itself, that becomes the index of a rank's first head or group, of the first count.
    - `parts`: components inside that compute on divided heads or channels, and are divided as well; a `*` matches any
      text. Each of them needs a plan: an empty one says that no head or channel of it reads another.
    """

    counts: tuple[str, ...] = ()
    first: str | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ArchlabError for a text where names are wanted, and for a first of nothing."""
        for name in ("counts", "parts"):
            if isinstance(getattr(self, name), str):
                raise ArchlabError(f"TensorPlan: {name}={getattr(self, name)!r} is a text: write a tuple of names")
        if self.first is not None and not self.counts:
            raise ArchlabError(
                f"TensorPlan: first={self.first!r} is the index of the first of `counts`, and there is none"
            )
