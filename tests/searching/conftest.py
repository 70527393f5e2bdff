"""A search whose trainings are pretended."""

from collections.abc import Callable

import pytest
from search_helpers import pretend, replace_training

from archlab.config.experiment import Experiment


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace training by one that returns losses at once; the fixture replaces these losses."""

    def install(**loss: Callable[[Experiment], float]) -> None:
        replace_training(monkeypatch, pretend(**loss))

    install()
    return install
