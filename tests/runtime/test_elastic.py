"""What the launcher says of processes that have ended, without starting any."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest
import torch.distributed as dist

from archlab.runtime.elastic import _explain
from archlab.runtime.outcome import Outcome
from archlab.runtime.rank_status import RankStatus, explain_loss, publish, read_statuses, slowest


@dataclass
class Failure:
    exitcode: int
    timestamp: int = 0


@pytest.fixture
def store() -> dist.HashStore:
    return dist.HashStore()


def store_statuses(store: dist.Store, *statuses: RankStatus) -> dist.Store:
    for status in statuses:
        publish(store, status)
    return store


KILLED, ENDED = Failure(-signal.SIGKILL), Failure(-signal.SIGTERM)
LOST = Failure(Outcome.MACHINE.exit_status)


@pytest.mark.parametrize(
    ("failures", "statuses", "status", "line"),
    [
        (
            {0: LOST, 2: KILLED},
            [RankStatus(0, 7, "compute", lost=True), RankStatus(2, 7, "compute")],
            137,
            "rank 2 of 4 was killed in update 7 (compute): SIGKILL",
        ),
        (
            {0: LOST, 1: KILLED},
            [
                *(RankStatus(rank, 8, "reduce", lost=True, waited=True) for rank in (0, 2, 3)),
                RankStatus(1, 7, "data"),
            ],
            75,
            "the processes have lost each other: rank 1 in update 7 (data) hangs; the others are in update 8",
        ),
        ({0: Failure(2, 5), 1: Failure(2, 6), 3: ENDED}, [RankStatus(0, 7, "reduce")], 2, ""),
        ({1: Failure(75, 4), 0: LOST}, [RankStatus(0, 7, "reduce", lost=True), RankStatus(1, 7, "write")], 75, ""),
    ],
)
def test_the_process_that_failed_is_named(
    failures: dict[int, Failure], statuses: list[RankStatus], status: int, line: str, store: dist.HashStore
) -> None:
    assert _explain(failures, store_statuses(store, *statuses), 4) == (status, line)  # type: ignore[arg-type]


def test_the_slowest_is_the_one_that_the_others_wait_for(store: dist.HashStore) -> None:
    store_statuses(store, RankStatus(0, 7, "reduce"), RankStatus(1, 7, "data"), RankStatus(2, 8, "data"))
    found = read_statuses(store, 3)
    assert slowest(found) == RankStatus(1, 7, "data")
    assert "rank 1 in update 7 (data) is the last to be heard of; the others are in update 8" in explain_loss(found)
    assert slowest(read_statuses(store, 4)) == RankStatus(3, 0, "start"), "it has reported nothing yet"
