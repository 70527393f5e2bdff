"""The page of several models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from archlab.inference.suite import Curve, Estimate
from archlab.reporting.compared_model import ComparedModel
from archlab.reporting.differences import Difference
from archlab.reporting.figures.compared import compared_curve, compared_losses
from archlab.reporting.format import axis_title
from archlab.reporting.html import figure, page, section, table
from archlab.reporting.pages.model_section import diagram, yaml_difference

_MEASURED = ("val_loss", "val_bpb", "val_accuracy", "loss", "tokens_per_s", "memory_bytes")


def compare_page(models: Sequence[ComparedModel], found: Sequence[Difference], notes: Sequence[str]) -> str:
    """Return the page: results, learning curves, costs, structure, differences, evaluations."""
    return page(" and ".join(model.name for model in models), notes, _sections(models, found))


def results(models: Sequence[ComparedModel]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    """Yield the metrics of the runs, by name; nothing if none is a run."""
    if any(model.tokens for model in models):
        yield "tokens trained on", tuple(model.tokens or None for model in models)
    for name in _MEASURED:
        values = tuple(model.metrics.get(name) for model in models)
        if any(value is not None for value in values):
            yield axis_title(name), values


def costs(models: Sequence[ComparedModel]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the costs of all models, by name."""
    for name in models[0].costs:
        yield axis_title(name), tuple(model.costs[name] for model in models)


def shared_suites(models: Sequence[ComparedModel]) -> list[str]:
    """Return the suites that at least two models were measured by."""
    suites = [suite for model in models for suite in model.evaluations]
    return [suite for suite in dict.fromkeys(suites) if suites.count(suite) > 1]


def shared_figures(models: Sequence[ComparedModel], suite: str) -> dict[str, list[Estimate | None]]:
    """Return a suite's figures by name, of each model that it was measured of."""
    every = [_figures(model, suite) for model in models]
    return {name: [each.get(name) for each in every] for name in dict.fromkeys(n for each in every for n in each)}


def shared_curves(models: Sequence[ComparedModel], suite: str) -> dict[str, list[tuple[int, str, Curve]]]:
    """Return a suite's curves by name, each with the numbers and names of the models that it was measured of."""
    made: dict[str, list[tuple[int, str, Curve]]] = {}
    for number, model in enumerate(models):
        for curve in model.evaluations[suite].curves if suite in model.evaluations else ():
            made.setdefault(curve.name, []).append((number, model.name, curve))
    return {name: curves for name, curves in made.items() if len(curves) > 1}


def _figures(model: ComparedModel, suite: str) -> Mapping[str, Estimate]:
    return model.evaluations[suite].figures if suite in model.evaluations else {}


def _sections(models: Sequence[ComparedModel], found: Sequence[Difference]) -> Iterator[str]:
    names = [model.name for model in models]
    if measured := dict(results(models)):
        # A row for each model: the numbers of a column share their decimals.
        rows = [("", (name, *(values[n] for values in measured.values()))) for n, name in enumerate(names)]
        yield section("Results", table(["", *measured], rows, name="results"))
    if (losses := compared_losses(models)) is not None:
        yield section("Learning curves", figure(losses))
    counted = [("", (name, *values)) for name, values in costs(models)]
    yield section("Costs", table(["", *names], counted, name="costs", narrow=True))
    yield section("Layers", diagram({model.name: model.experiment.resolved["model"] for model in models}))
    differing = [("", (each.path, *each.values)) for each in found]
    made = table(["", *names], differing, name="differences") if differing else ""
    note = "" if differing else "They differ in nothing that an experiment declares."
    yield section("Differences", made, *_yaml(models), note=note)
    for suite in shared_suites(models):
        yield section(f"Evaluation: {suite}", *_evaluation(models, suite))


def _yaml(models: Sequence[ComparedModel]) -> Iterator[str]:
    first = models[0]
    for other in models[1:]:
        yield yaml_difference(first.experiment.resolved, other.experiment.resolved, (first.name, other.name))


def _evaluation(models: Sequence[ComparedModel], suite: str) -> Iterator[str]:
    names = [model.name for model in models]
    if figures := shared_figures(models, suite):
        rows = [("", (name, *(_format_estimate(each) for each in values))) for name, values in figures.items()]
        yield table(["", *names], rows, name=suite, narrow=True)
    for name, curves in shared_curves(models, suite).items():
        yield figure(compared_curve(suite, curves), f"{curves[0][2].title}; 90 % intervals.")
        yield table([curves[0][2].x, *(named for _, named, _ in curves)], _rows(curves), name=f"{suite}-{name}")


def _rows(curves: Sequence[tuple[int, str, Curve]]) -> Iterator[tuple[str, list[object]]]:
    by_place = [dict(curve.points) for _, _, curve in curves]
    for x in sorted({x for points in by_place for x in points}):
        yield "", [int(x) if x.is_integer() else x, *(_format_estimate(points.get(x)) for points in by_place)]


def _format_estimate(each: Estimate | None) -> str:
    if each is None:
        return ""
    interval = "" if each.low is None or each.high is None else f" ({each.low:.4f} to {each.high:.4f})"
    return f"{each.value:.4f}{interval}"
