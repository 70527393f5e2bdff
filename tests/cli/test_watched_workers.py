"""The workers of a search, as `archlab watch` shows them."""

from __future__ import annotations

from archlab.cli.watching import watch_lines
from archlab.searching.watch import _with_workers
from archlab.training.progress import Progress, RunProgress, WorkerProgress

DEAD = WorkerProgress("died", "node2", 8, "trial 4")


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


def test_a_trial_of_a_worker_on_another_machine_is_running() -> None:
    # Its lock is not seen here, and its lease is.
    labels = ("trial 3, run 2", "trial 4")
    stopped = tuple(RunProgress(label, "stopped", reason="its process is gone") for label in labels)
    progress = Progress("search", "s", total=9, running=stopped)
    seen = _with_workers(progress, [WorkerProgress("working", "node1", 7, "trial 3"), DEAD])
    assert [(run.state, run.reason) for run in seen.running] == [("training", ""), ("stopped", "its process is gone")]
    assert seen.counts["running"] == 1
