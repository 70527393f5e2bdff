"""Parts of a model that only training uses, and exports leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec


def leave_out_training_parts(
    experiment: Experiment, tensors: Mapping[str, Tensor]
) -> tuple[Experiment, Mapping[str, Tensor]]:
    """Return the experiment and the tensors without parts of the model that have no effect once it is trained.

    A backbone's component whose class has `exported_as`, the name of one of its slots, is replaced by that slot's
    component.
    """
    for name, spec in experiment.model.knobs.items():
        kept = getattr(spec.component.cls, "exported_as", None) if isinstance(spec, Spec) else None
        if kept is not None:
            knobs = {**experiment.model.knobs, name: spec.knobs[kept]}
            experiment = replace(experiment, model=replace(experiment.model, knobs=knobs))
            tensors = _move_up(tensors, name, kept)
    return experiment, tensors


def _move_up(tensors: Mapping[str, Tensor], name: str, kept: str) -> dict[str, Tensor]:
    """Return the tensors with those of a child in its parent's place, of which all others are left out."""
    prefix = f"{name}.{kept}."
    own = (key for key in tensors if key.startswith(prefix) or not key.startswith(f"{name}."))
    return {key.replace(prefix, f"{name}.", 1) if key.startswith(prefix) else key: tensors[key] for key in own}
