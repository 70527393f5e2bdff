from __future__ import annotations

import pytest


@pytest.mark.slow
def test_doctor(run) -> None:
    done = run("doctor")
    assert done.status == 0
    assert "Python" in done.out
    assert "memory" in done.out
