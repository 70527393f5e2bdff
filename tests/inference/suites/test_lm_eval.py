"""What the suite lm-eval says before lm-eval is loaded."""

from __future__ import annotations

import sys

import pytest
from conftest import Tiny

from archlab import ArchlabError, SuiteRequest
from archlab.inference.suite import find_suite
from archlab.modeling.build import build


@pytest.mark.parametrize("suite", ["lm-eval", "megalodon-paper"])
def test_without_the_extra_it_is_named(suite: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    experiment = tiny()
    request = SuiteRequest(tasks=("piqa",) if suite == "lm-eval" else ())
    with pytest.raises(ArchlabError, match=rf"the suite {suite} needs lm-eval: pip install 'archlab\[eval\]'"):
        find_suite(suite)(build(experiment.model), experiment, request, lambda *reported: None)
