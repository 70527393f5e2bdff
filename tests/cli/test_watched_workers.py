"""Who works on a search, as `archlab watch` tells it."""

from __future__ import annotations

from archlab.cli.watching import watch_lines
from archlab.training.progress import Progress, WorkerProgress


def test_workers_and_the_dead_have_a_line_each() -> None:
    since = "2026-11-27T01:29:04.911+00:00"
    workers = (
        WorkerProgress("working", "node1", 7, "trial 3", since),
        WorkerProgress("died", "node[2]", 8, "baseline", since, "its process has ended"),
    )
    lines = [line.plain for line in watch_lines(Progress("search", "s", total=9, workers=workers), 80)]
    assert lines[-2:] == [
        "worker node1:7  working  trial 3  since 2026-11-27 01:29:04 UTC",
        "worker node[2]:8  died  baseline  since 2026-11-27 01:29:04 UTC  its process has ended",
    ]
