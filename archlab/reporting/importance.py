"""Which knobs mattered, where there are trials enough to tell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

from optuna.trial import FrozenTrial

from archlab.errors import one_line
from archlab.reporting.search_data import SearchData

EVALUATOR = "PED-ANOVA"
# From few trials it reads chance as importance: seven with one learning rate among the best and the worst gave it 0.97.
MIN_TRIALS = 20


def importances(data: SearchData) -> tuple[dict[str, float], str]:
    """Return the PED-ANOVA importance of each knob for the first objective, or an empty mapping and the reason."""
    if len(data.complete) < MIN_TRIALS:
        need = f"{MIN_TRIALS} complete trials are needed, and there are {len(data.complete)}"
        return {}, f"Importances cannot be computed: {need}."
    # Here: it brings scikit-learn and SciPy with it, which take seconds.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of any custom target, whatever its sign
            shares = get_param_importances(data.study, evaluator=PedAnovaImportanceEvaluator(), target=_loss_of(data))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return {}, f"Importances cannot be computed: {one_line(error)}"
    usable = {name: share for name, share in shares.items() if math.isfinite(share)}
    return usable, "" if usable else "Importances cannot be computed: the trials differ too little."


def _loss_of(data: SearchData) -> Callable[[FrozenTrial], float]:
    """Return the target of PED-ANOVA, which expects lower values to be better."""
    sign = -1.0 if data.space.objectives[data.space.objective] == "maximize" else 1.0
    return lambda trial: sign * trial.values[0] if trial.values else math.nan
