"""Progress of work that knows how much there is, of work that does not, and of calls that say nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from archlab.runtime import progress
from archlab.runtime.progress import EstimatedProgress, report_to

Reports = list[tuple[str, int, int | None]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reports]:
    monkeypatch.setattr(progress, "_EVERY_S", 0.005)
    found: Reports = []
    with report_to(lambda *each: found.append(each)):
        yield found


def test_a_call_that_reports_nothing_is_estimated_by_its_size(reports: Reports) -> None:
    calls = EstimatedProgress("encoding", 300, speed=1000.0)
    assert calls.run(100, lambda: time.sleep(0.08)) is None
    done = [done for _, done, _ in reports]
    assert done[0] == 0  # there is a bar from the first moment
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert max(done) <= 98
    assert calls.speed == pytest.approx(100 / 0.08, rel=0.5)  # as measured
    assert calls.run(200, lambda: 5) == 5
    assert all(total == 300 for *_, total in reports)


def test_what_a_call_raises_is_raised(reports: Reports) -> None:
    def fail() -> None:
        raise TimeoutError("of the call itself")

    with pytest.raises(TimeoutError, match="of the call itself"):
        EstimatedProgress("encoding", 1, 1.0).run(1, fail)
