"""Searches, ladders and runs made up without training, to be reported."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from search_helpers import write_space

from archlab.reporting.search_data import Run, SearchData, _base_values, _state
from archlab.searching.ladder.forecasting import Aim, draft_forecast, fit
from archlab.searching.ladder.results import RunResult, mean_losses
from archlab.searching.ladder.summary import LadderSummary, RungSummary
from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.variants.apply import apply_values

MIXER = "model.layers[*].mixer"
EMA, DIMS, VALUE = f"{MIXER}.ema", f"{MIXER}.ema.num_dims", f"{MIXER}.value_dim"
VARY = {
    EMA: ["cema", "ema", "s4d", "none"],
    DIMS: [16, 2, 32, 4, 8],
    VALUE: {"low": 8, "high": 64, "step": 8},
    "model.layers[*].residual": ["pre_norm", "two_hop", "parallel"],
    "train.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.weight_decay": {"low": 0.0, "high": 0.3},
}
OBJECTIVES = {"val_loss": "minimize", "params": "minimize", "tokens_per_s": "maximize"}
_STEPS, _EVERY = 400, 20
_DISTRIBUTIONS: dict[str, BaseDistribution] = {
    EMA: CategoricalDistribution(VARY[EMA]),
    DIMS: CategoricalDistribution(VARY[DIMS]),
    VALUE: IntDistribution(8, 64, step=8),
    "model.layers[*].residual": CategoricalDistribution(VARY["model.layers[*].residual"]),
    "train.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "train.weight_decay": FloatDistribution(0.0, 0.3),
}


def make_search(
    folder: Path, trials: int, *, objectives: int = 1, seeds: int = 1, is_worse: bool = False, has_ended: bool = True
) -> SearchData:
    """Return a search of trials, a tenth of which fail, a fifth are pruned, and some violate a constraint."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = dict(list(OBJECTIVES.items())[:objectives])
    study = {"pruner": "none", "runs_per_trial": seeds}
    space = load_space(write_space(folder, vary=VARY, objectives=chosen, study=study, constraints=["params <= 9000"]))
    rng = random.Random(trials)
    made = optuna.create_study(directions=list(chosen.values()))
    runs = [_add(made, number, rng, space, seeds) for number in range(trials)]
    base = 1.9 if is_worse else 2.9
    values = {"params": 7200, "tokens_per_s": 5100.0, "val_loss": base, "val_bpb": base / math.log(2)}
    baseline = Run("baseline", "complete", _base_values(space), values, _curve(base, _STEPS, rng), place="baseline")
    data = SearchData("made_up", folder, space, made, baseline, runs, None)
    if not has_ended or data.best is None:
        return data
    _write_best(folder, space, data.best)
    return SearchData("made_up", folder, space, made, baseline, runs, _summary(data))


def _add(study: optuna.Study, number: int, rng: random.Random, space: Space, seeds: int) -> Run:
    values, params = _draw(rng)
    loss = _loss(values, rng)
    costs = {"params": _params(values), "tokens_per_s": 9000 - 0.5 * _params(values) + rng.gauss(0, 100)}
    own = [loss + rng.gauss(0, 0.02) for _ in range(seeds)] if seeds > 1 else []
    loss = fmean(own) if own else loss
    state, steps, reason = TrialState.COMPLETE, _STEPS, ""
    luck = rng.random()
    if costs["params"] > 9000:
        state, steps, reason = TrialState.PRUNED, 0, f"params <= 9000 is violated: params is {costs['params']}"
    elif luck < 0.08 and number > 1:
        state, steps, reason = TrialState.FAIL, 60, f"val_loss is nan at step {rng.randrange(20, 60)}"
    elif loss > 2.95 and number > 3:
        state, steps = TrialState.PRUNED, _EVERY * rng.randrange(2, 9)
        reason = f"pruned at step {steps} of {_STEPS}, with val_loss {loss + 0.5:.4g}"
    curve = _curve(loss, steps, rng)
    metrics = {**costs, **({"val_loss": curve[-1][1], "val_bpb": curve[-1][1] / math.log(2)} if curve else {})}
    if state == TrialState.COMPLETE:
        metrics |= {"val_loss": loss, "val_bpb": loss / math.log(2)}
    attrs = {
        "values": values,
        "metrics": metrics,
        "reason": reason,
        "spent": {"seconds": 60.0, "tokens": 1e5, "flops": 1e12},
    }
    own = own if state == TrialState.COMPLETE else []
    attrs |= {"seed_metrics": {"val_loss": own}} if own else {}
    names = list(space.objectives)
    study.add_trial(
        create_trial(
            state=state,
            values=[metrics[name] for name in names] if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: _DISTRIBUTIONS[name] for name in params},
            user_attrs=attrs,
            intermediate_values=dict(curve),
        )
    )
    trial = study.get_trials(deepcopy=False)[-1]
    place = f"trials/{number:04d}" if steps else ""
    return Run(f"{number}", _state(trial, is_trained=bool(curve)), values, metrics, curve, reason, place, own)


def _draw(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    values: dict[str, Any] = {EMA: rng.choice(VARY[EMA])}
    if values[EMA] != "none":
        values[DIMS] = rng.choice(VARY[DIMS])
    values[VALUE] = 8 * rng.randint(1, 8)
    values["model.layers[*].residual"] = rng.choice(VARY["model.layers[*].residual"])
    values["train.lr"] = 10 ** rng.uniform(-4, -1)
    values["train.weight_decay"] = rng.uniform(0, 0.3)
    return values, values


def _params(values: dict[str, Any]) -> int:
    return 5000 + 60 * values[VALUE] + 24 * values.get(DIMS, 0)


def _loss(values: dict[str, Any], rng: random.Random) -> float:
    of_ema = {"cema": 0.0, "ema": 0.08, "s4d": 0.15, "none": 0.35}[values[EMA]]
    of_lr = 0.25 * abs(math.log10(values["train.lr"]) + 2.3) ** 2
    return 2.2 + of_ema + of_lr + 0.6 / values[VALUE] ** 0.5 + 0.05 / values.get(DIMS, 1) + abs(rng.gauss(0, 0.05))


def _curve(loss: float, steps: int, rng: random.Random) -> list[tuple[int, float]]:
    found = [
        (step, loss + 3.2 * (step / _EVERY) ** -0.9 - 3.2 * (_STEPS / _EVERY) ** -0.9 + rng.gauss(0, 0.01))
        for step in range(_EVERY, steps + 1, _EVERY)
    ]
    return [(step, round(value, 6)) for step, value in found]


def _write_best(folder: Path, space: Space, best: Run) -> None:
    experiment = apply_values(space.varied, best.values, space.base, "best").resolve()
    (folder / "best").mkdir(exist_ok=True)
    (folder / "best" / "experiment.yaml").write_text(experiment.to_yaml())


def _summary(data: SearchData) -> SearchSummary:
    best = data.best
    assert best is not None
    whole = {"loss": best.metrics["val_loss"] - 0.011, "bpb": (best.metrics["val_loss"] - 0.011) / math.log(2)}
    base = {
        "loss": data.baseline.metrics["val_loss"] - 0.01,
        "bpb": (data.baseline.metrics["val_loss"] - 0.01) / math.log(2),
    }
    return SearchSummary(
        search="made_up",
        objectives=dict(data.space.objectives),
        trials={},
        best_trial=TrialSummary(int(best.name), dict(best.values), dict(best.metrics), whole),
        baseline=BaselineSummary(dict(data.baseline.metrics), "", base),
        pareto=[trial.number for trial in data.study.best_trials] if len(data.space.objectives) > 1 else [],
        compressors={"zlib": 1.9, "bz2": 1.5, "xz": 1.46},
        validation_bytes=440000,
        tokens_per_trial=51200,
        corpus={"source": "made up", "sha256": "0" * 64, "bytes": {"train": 9000000, "validation": 440000}},
        machine={"cpu": "EPYC", "cores": 2},
        versions={"torch": "2.12"},
    )


def write_run(folder: Path, experiment: Path, steps: int = 300) -> Path:
    """Write the directory of a run that is still running, with a log of each step."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(experiment.read_text())
    lines = []
    for step in range(1, steps + 1):
        loss = 2 + 3.5 * step**-0.4 + rng.gauss(0, 0.05)
        record = {
            "step": step,
            "loss": loss,
            "lr": 0.01 * min(1, step / 30),
            "grad_norm": abs(rng.gauss(1, 0.3)),
            "tokens_per_s": 5000.0,
        }
        if step % 25 == 0:
            record |= {"val_loss": loss + 0.02, "val_bpb": loss * 1.44}
        lines.append(json.dumps(record))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_ladder(*, rungs: int = 5, candidates: int = 6, has_target: bool = True) -> LadderSummary:
    """Return a ladder whose losses follow laws, the last rung forecast from those before."""
    rng = random.Random(1)
    names = ["llama", "megalodon", "mamba2", "rwkv7", "gated_delta_net", "hybrid", *(f"more_{n}" for n in range(20))]
    laws = {name: (1.6 + 0.01 * n, 40 + 4 * n, 0.3 + 0.004 * n) for n, name in enumerate(names[:candidates])}
    results: list[RunResult] = []
    summaries: list[RungSummary] = []
    going = list(laws)
    for number in range(1, rungs + 1):
        params = 1e5 * 3**number
        is_last = number == rungs  # fits take seconds
        drafted = draft_forecast(results, going, Aim(params, 20 * params), {}, "val_loss") if is_last else None
        for name, seed in ((name, seed) for name in going for seed in range(2)):
            own = int(params * rng.uniform(0.97, 1.03))
            results.append(_ladder_run(number, name, seed, own, laws[name], rng))
        losses = mean_losses([result for result in results if result.rung == number])
        going = list(losses)[: max(2, len(going) - 1)]
        decision = {"goes_on": going, "dropped": {}, "by": "law", "losses": losses, "notes": []}
        stored = {"rung": number, **vars(drafted)} if drafted else None
        summaries.append(RungSummary(number, params, 20 * params, list(losses), losses, stored, decision, "", {}))
    aim = Aim(7e9, 2e12)
    fitted = fit(results, going, aim) if has_target else ""
    target = {"rung": 0, **vars(draft_forecast(results, going, aim, {}, "val_loss"))} if has_target else None
    plain = json.loads(json.dumps(fitted.to_dict())) if not isinstance(fitted, str) else None
    flops = sum(result.flops for result in results)
    verdict = "stop: these cannot be distinguished at this budget: llama, megalodon"
    head = ("made_up", "val_loss", False, "", summaries, results, list(summaries[-1].losses), going)
    return LadderSummary(*head, {"more": "rung 1: loss is nan"}, verdict, target, plain, "", flops, {"cpu": "EPYC"}, {})


def _ladder_run(
    number: int, name: str, seed: int, params: int, law: tuple[float, float, float], rng: random.Random
) -> RunResult:
    tokens = 20 * params
    loss = (law[0] + law[1] / params ** law[2] + 30 / tokens**0.3) * math.exp(rng.gauss(0, 0.004))
    return RunResult(number, name, seed, 1.0, params, tokens, 6.0 * params * tokens, loss)
