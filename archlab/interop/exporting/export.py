"""Export of a trained model to a directory that works without archlab, in one format or several, each proved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop.exporting.exported_model import ExportedModel, read_model
from archlab.interop.exporting.format import ExportFormat, make_formats
from archlab.interop.exporting.model_card import model_card
from archlab.interop.exporting.proof import expected_logits, prove
from archlab.storage.files import atomic_dir, write_bytes, write_text
from archlab.storage.manifest import write_manifest
from archlab.storage.model_tokens import token_files
from archlab.storage.targets import require_target

DEFAULT = ("standalone", "transformers")


def export(
    folder: Path,
    out: Path,
    formats: Sequence[str] = (),
    *,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the model of a run, a search, a checkpoint or an import to `out`, and prove every format that is written.

    `formats` are by default those of DEFAULT that the model has; `options` go to the formats, `origin` into the model
    card, and calls `tell` with a line about each action. Returns `out`. Raises ArchlabError for a damaged checkpoint, a
    model that a format does not have, an export that gives other logits than the model, of which nothing is left, or an
    `out` that is not empty: `force` replaces an earlier export and nothing else.
    """
    chosen = make_formats(formats or DEFAULT, options or {})
    check = require_target(out, "export", force=force, sources=[folder])
    model = read_model(folder, origin)
    if model.note:
        tell(f"the model is {model.note}")
    chosen = _fitting_formats(model, chosen, is_default=not formats, tell=tell)
    with atomic_dir(out, replace=True, check=check) as partial:
        _write(model, partial, chosen)
        expected = expected_logits(model)
        for name, each in chosen.items():
            loader = each.loader(model)
            if loader is not None:
                tell(prove(name, partial, loader, expected))
        write_manifest(partial, "export")
    for each in chosen.values():
        if advice := each.advice(model, out):
            tell(f"use it   {advice}")
    return out


def _fitting_formats(
    model: ExportedModel, chosen: Mapping[str, ExportFormat], *, is_default: bool, tell: Callable[[str], None]
) -> dict[str, ExportFormat]:
    """Return the formats that a model has; of those that were asked for, raise for the first that it has not."""
    fitting: dict[str, ExportFormat] = {}
    for name, each in chosen.items():
        try:
            each.check(model)
        except ArchlabError as error:
            if not is_default or name == DEFAULT[0]:
                raise
            tell(f"left out: {error}")
        else:
            fitting[name] = each
    return fitting


def _write(model: ExportedModel, folder: Path, formats: Mapping[str, ExportFormat]) -> None:
    write_text(folder / "config.yaml", model.experiment.to_yaml())
    write_text(folder / "provenance.json", json.dumps(dict(model.origin), indent=2) + "\n")
    for name, data in token_files(model.tokens).items():
        write_bytes(folder / name, data)
    for each in formats.values():
        each.write(model, folder)
    write_text(folder / "README.md", model_card(model, folder, formats))
