from __future__ import annotations

from typing import Literal

import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn

from archlab.modeling.activation_checkpointing import apply_activation_checkpointing
from archlab.modeling.build import build


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(0)
    model(torch.arange(40).view(2, 20))[0].logsumexp(-1).sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", [True, "selective"])
def test_recomputing_changes_no_gradient_even_with_dropout(kind: Literal[True, "selective"], tiny: Tiny) -> None:
    spec = tiny().model
    plain, recomputed = build(spec), build(spec)
    apply_activation_checkpointing(recomputed, kind)
    for one, other in zip(gradients(plain), gradients(recomputed), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_recomputing_keeps_names(tiny: Tiny) -> None:
    model = build(tiny().model)
    names = list(model.state_dict())
    apply_activation_checkpointing(model, True)
    assert list(model.state_dict()) == names
