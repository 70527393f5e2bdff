"""The coordinate check passes what transfers, and finds what does not."""

from __future__ import annotations

import pytest

from archlab import Param
from archlab.config.registry import find
from archlab.testing.component_case import CheckFailed, ComponentCase
from archlab.testing.params import declares_parameters
from archlab.testing.transfer import transfers

MLP = ComponentCase("ffn", "mlp", {"hidden_dim": 32})
CONV = ComponentCase("ema", "short_conv")
TOKENS, GATED = ComponentCase("embedding", "tokens"), ComponentCase("ffn", "swiglu")


@pytest.mark.slow
def test_standard_fails_over_width() -> None:
    with pytest.raises(CheckFailed, match="width"):
        transfers(MLP, width="standard")


@pytest.mark.slow
def test_mup_alone_fails_over_depth() -> None:
    with pytest.raises(CheckFailed, match="the last block's output goes like depth"):
        transfers(MLP, depth="mup")


WRONG = {
    "up-vector": (MLP, "up.weight", Param("vector")),
    "down-vector": (MLP, "down.weight", Param("vector", branch=True)),
    "conv-hidden": (CONV, "weight", Param("hidden")),
    "embedding-hidden": (TOKENS, "weight", Param("hidden")),
    "gate-vector": (GATED, "gate.weight", Param("vector")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_role_fails(monkeypatch: pytest.MonkeyPatch, case: ComponentCase, name: str, wrong: Param) -> None:
    monkeypatch.setitem(find(case.kind, case.name).params, name, wrong)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="goes like width"):
        transfers(case)


@pytest.mark.slow
def test_a_declared_name_that_no_knobs_give_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    params = find("ema", "short_conv").params
    monkeypatch.setitem(params, "wieght", Param("vector"))  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="wieght"):
        declares_parameters(CONV)
    monkeypatch.delitem(params, "wieght")  # type: ignore[arg-type]
    monkeypatch.delitem(params, "weight")  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="the parameter 'weight' has no role"):
        declares_parameters(CONV)
