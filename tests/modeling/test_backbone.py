from __future__ import annotations

import torch
from conftest import Tiny
from torch import Tensor, nn

from archlab import State
from archlab.modeling import backbone
from archlab.modeling.activation_checkpointing import apply_activation_checkpointing
from archlab.modeling.build import build_on_meta
from archlab.modeling.compile import compile_model
from archlab.modeling.loss import iter_logits, total_loss
from archlab.modeling.state import init_state, max_context


class Bare(nn.Module):
    """A backbone that declares nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.table(tokens_BT), {}


def test_a_backbone_that_declares_nothing_has_the_defaults() -> None:
    model = Bare()
    assert list(backbone.iter_blocks(model)) == []
    assert backbone.num_outputs(model) is None
    assert backbone.get_features(model) is None
    assert backbone.output_weight(model) is None
    assert backbone.is_causal(model)
    assert backbone.has_exact_gradients(model)
    assert not backbone.is_per_sample(model)
    assert max_context(model) is None
    assert init_state(model, 1) == {}


def test_such_a_backbone_can_be_trained_and_evaluated() -> None:
    model, tokens_BT = Bare(), torch.arange(4)[None]
    apply_activation_checkpointing(model, True)
    compile_model(model, "off")
    loss, _ = total_loss(model, tokens_BT, tokens_BT)
    assert loss.isfinite()
    ((logits_BTV, targets_BT),) = iter_logits(model, tokens_BT, tokens_BT, metrics_are_per_token=True)
    assert logits_BTV.shape == (1, 4, 5)
    assert targets_BT is tokens_BT


def test_declared_attributes_are_read(tiny: Tiny) -> None:
    model = build_on_meta(tiny().model)
    assert len(list(backbone.iter_blocks(model))) == 2
    assert backbone.num_outputs(model) == 256
    weight_VD = backbone.output_weight(model)
    assert weight_VD is not None
    assert weight_VD.shape == (256, 32)
    next(backbone.iter_blocks(model)).causal = False  # type: ignore[assignment]
    assert not backbone.is_causal(model)
