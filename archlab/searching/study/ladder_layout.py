"""The files that a ladder writes into the directory of its search."""

from __future__ import annotations

from archlab.storage.ownership import RUN, Layout, dir_of, own_file, partial_path

LADDER_DIRS = ("rungs", "forecasts", "launch")
_EXPERIMENTS: Layout = {"*.yaml": own_file, ".*.archlab-*": partial_path}
_CANDIDATE: Layout = {"costs.json": own_file, "seed_[0-9]*": dir_of(RUN), **_EXPERIMENTS}
_RUNG: Layout = {"decision.json": own_file, ".*.archlab-*": partial_path, "[A-Za-z0-9]*": dir_of(_CANDIDATE)}
LADDER_LAYOUT: Layout = {
    "rungs": dir_of({"[0-9]*": dir_of(_RUNG), "threads.json": own_file, ".*.archlab-*": partial_path}),
    "forecasts": dir_of({"[0-9]*.json": own_file, ".*.archlab-*": partial_path}),
    "launch": dir_of({"rung_[0-9]*": dir_of(_EXPERIMENTS), **_EXPERIMENTS}),
}
