"""Export formats of a trained model, found by name.

A format is a class whose keyword-only parameters are its options. Those that ship are modules of
`archlab.interop.exporting.formats`, whose `FORMAT` is one; an installed package adds one by an entry point of the group
`archlab.export_formats`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from archlab.errors import ArchlabError, did_you_mean
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.runtime.extensions import EXPORT_FORMATS


class ExportFormat(Protocol):
    """One way to write a trained model into a directory.

    Attributes:
        needs: The formats whose files this one builds on, which are written first.
        is_alone: Whether its files have names that other formats use, so that it needs a directory of its own.
    """

    needs: tuple[str, ...]
    is_alone: bool

    def check(self, model: ExportedModel) -> None:
        """Raise ArchlabError naming the part of the model that the format does not have, before anything is written."""
        ...

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Write the files."""
        ...

    def loader(self, model: ExportedModel) -> str | None:
        """Return the source of a module by which a process without archlab proves the export; None for no proof.

        Its `load(folder)` returns a function from inputs and a state, None at first, to logits and the next state; its
        `padded(folder)`, if it has one, a function from left-padded tokens and their mask to logits. Its `NEEDS` are
        the packages that it imports. Its `TOLERANCE` is the largest difference in float32, 1e-5 unless given.
        """
        ...

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return a line of Python or of a shell that uses the export."""
        ...


def format_names() -> list[str]:
    """Return the names of all export formats."""
    return EXPORT_FORMATS.names()


def find_export_format(name: str) -> Callable[..., ExportFormat]:
    """Return the class of an export format by its name; raise ArchlabError if there is none."""
    found: Callable[..., ExportFormat] | None = EXPORT_FORMATS.find(name)
    if found is None:
        known = format_names()
        raise ArchlabError(f"no export format {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    return found


def make_formats(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, ExportFormat]:
    """Return formats by name, those that others build on first; raise ArchlabError for an option that none of them has.

    Only a format that is alone in its directory can have files of any name, and so no other goes beside it.
    """
    made: dict[str, ExportFormat] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        known = set(inspect.signature(find_export_format(name)).parameters) & set(options)
        taken |= known
        chosen = find_export_format(name)(**{key: options[key] for key in known})
        made |= make_formats([each for each in chosen.needs if each not in made], {}) | {name: chosen}
    for option in sorted(set(options) - taken):
        raise ArchlabError(f"{option}: none of the formats {', '.join(made)} has this option")
    alone = next((name for name, each in made.items() if each.is_alone and len(made) > 1), None)
    if alone:
        others = ", ".join(name for name in made if name != alone)
        raise ArchlabError(f"{alone} needs a directory of its own, without {others}; export it to another --out")
    return made
