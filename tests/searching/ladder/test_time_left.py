"""How long a ladder takes from here, against runs whose times follow a planted law."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ladder_helpers import write_ladder

from archlab.searching.ladder.config import Ladder, parse_ladder
from archlab.searching.ladder.time_left import (
    LadderClock,
    ladder_seconds_left,
    num_runs,
    run_share,
    rung_sizes,
    runs_ahead,
)
from archlab.searching.space.load_space import load_space

RUNGS = [
    {"params": 1500, "tokens_per_param": 1, "seeds": 2, "keep": 3, "room": 1},
    {"params": 3000, "tokens_per_param": 1, "seeds": 2, "keep": 2},
    {"params": 6000, "tokens": 9000},
    {"params": 12000, "tokens": 9000, "elsewhere": True},
]


@pytest.fixture
def ladder(tmp_path: Path) -> Ladder:
    return parse_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS)))


def seconds(params: float, tokens: float) -> float:
    return 0.001 * tokens * params**0.5


def test_the_runs_ahead_are_those_of_the_candidates_that_may_go_on(ladder: Ladder) -> None:
    assert rung_sizes(ladder) == {1: (1500, 1500), 2: (3000, 3000), 3: (6000, 9000), 4: (12000, 9000)}
    assert runs_ahead(ladder, ladder.rungs[0], 6) == {1: 12, 2: 8, 3: 2}
    assert runs_ahead(ladder, ladder.rungs[1], 3) == {2: 6, 3: 2}
    assert runs_ahead(ladder, ladder.rungs[3], 2) == {}  # another machine's


def test_two_rungs_tell_how_time_grows(ladder: Ladder) -> None:
    sizes = rung_sizes(ladder)
    measured = {number: {"a": [seconds(*sizes[number])]} for number in (1, 2)}
    left = ladder_seconds_left(sizes, runs_ahead(ladder, ladder.rungs[1], 3), measured, 5, [])
    assert left == pytest.approx(seconds(3000, 3000) + 2 * seconds(6000, 9000))
    begun = [(1.0, 2.0, seconds(3000, 3000) - 2.0)]  # the only run of the rung so far, and still running
    left = ladder_seconds_left(sizes, runs_ahead(ladder, ladder.rungs[1], 3), {1: measured[1]}, 0, begun)
    assert left == pytest.approx(6 * seconds(3000, 3000) + 2 * seconds(6000, 9000) - 2.0)


def test_one_rung_is_scaled_and_none_says_nothing(ladder: Ladder) -> None:
    sizes, ahead = rung_sizes(ladder), runs_ahead(ladder, ladder.rungs[0], 6)
    assert ladder_seconds_left(sizes, ahead, {}, 0, []) is None
    assert ladder_seconds_left({}, ahead, {1: {"a": [1.0]}}, 0, []) is None
    measured = {1: {"slow": [1.5, 90.0, 1.5], "quick": [0.5]}}  # 90 s: it was stopped for a while
    left = ladder_seconds_left(sizes, ahead, measured, 3, [])
    assert left == pytest.approx(9 + 8 * 2 * 2**0.7 + 2 * 6 * 4**0.7)


def test_workers_share_what_is_left(ladder: Ladder) -> None:
    sizes, ahead = rung_sizes(ladder), runs_ahead(ladder, ladder.rungs[2], 2)
    alone = ladder_seconds_left(sizes, ahead, {3: {"a": [10.0]}}, 0, [(1.0, 4.0, None)])
    both = ladder_seconds_left(sizes, ahead, {3: {"a": [10.0]}}, 0, [(1.0, 4.0, None), (1.0, 0.0, 10.0)])
    assert (alone, both) == (16, 8)


def test_a_branch_is_its_decay_alone(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"branches": [0.5, 1.0], "override": {"train.schedule": "wsd", "train.decay_fraction": 0.2}}
    ladder = parse_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS, **keys)))
    assert num_runs(ladder, ladder.rungs[0]) == 4
    assert run_share(ladder, "rung 1: llama seed 0") == 1
    assert run_share(ladder, "rung 1: llama seed 0 at 0.5") == pytest.approx(0.1)
    assert runs_ahead(ladder, ladder.rungs[2], 2) == {3: pytest.approx(2.2)}


def test_a_clock_counts_what_ended_before_it(ladder: Ladder) -> None:
    clock = LadderClock(ladder)
    assert clock.seconds_left([]) is None
    clock.begin(ladder.rungs[2], 1, 4)
    clock.end("rung 3: one seed 0", 10.0, is_measured=True)
    clock.end("rung 3: two seed 0", 0.0, is_measured=False)  # it failed at once
    assert clock.seconds_left([]) == pytest.approx(10)
    assert clock.seconds_left([("rung 3: two seed 1", 4.0, None)]) == pytest.approx(6)


def test_sizes_that_are_unknown_leave_the_time_unknown(tmp_path: Path) -> None:
    ladder = parse_ladder(
        load_space(write_ladder(tmp_path, rungs=[{"set": {"model.dimm": 8}, "tokens": 9, "by": "model.dimm"}]))
    )
    assert rung_sizes(ladder) == {}
    assert ladder_seconds_left({}, {1: 4.0}, {1: {"a": [10.0]}}, 1.0, []) is None


def test_the_rungs_of_a_rehearsal_are_alike(ladder: Ladder) -> None:
    rehearsal: Any = SimpleNamespace(**{**vars(ladder), "is_rehearsal": True})
    assert set(rung_sizes(rehearsal).values()) == {(1.0, 1.0)}
