from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from archlab import Count, Factory, Param, Positive, Recurrent, choice, register, slot
from archlab.components._init import Init, linear


@register(
    "head",
    "multi_token",
    search={"depth": choice(1, 2, 4), "weight": choice(0.1, 0.3, 1.0)},
    params={"ahead.*.projection.weight": Param("hidden")},
)
class MultiTokenHead(nn.Module):
    """A head that in training predicts further tokens too, one after the other, as DeepSeek-V3 (arXiv:2412.19437).

    x: [B, T, D] -> the inner head's outputs for the next token, in training and later.
    Module k = 1, ..., depth predicts the token k + 1 ahead (section 2.2): h^k = layer(W [norm(h^{k-1}); norm(e_{t+k})])
    with h^0 = x and the model's own embedding e; the inner head reads norm(h^k). The loss of training adds
    weight / depth times the sum of their losses, each a mean over all targets. The modules have no part in evaluation,
    and leave no trace in an export.
    Raises ValueError where the model has no vocab_size, or for a layer with several residual streams.
    Deviations: x is normalized by the model's last norm before it enters. Auxiliary losses of the layers are left out.

    Args:
        depth: Number of further tokens.
        weight: Factor λ of the mean of their losses.
        head: Head of the next token, which the further ones share.
        layer: Layer of each module.
        norm: Norm of x, of the embedded token and of each layer's output.
        init: Distribution of the projections' weights.
    """

    per_sample = False
    exported_as = "head"  # the slot that is left of this component once it is trained

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        depth: Count = 1,
        weight: Positive = 0.3,
        head: Factory = slot("head", "language_model"),
        layer: Factory = slot("layer"),
        norm: Factory = slot("norm", "rms"),
        init: Init = "he",
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("predicts tokens: the model needs a vocab_size")
        self.head, self.further_weight = head(dim, vocab_size, embedding), weight / depth
        self.num_outputs = self.head.num_outputs
        self._embedding = (embedding,)  # a tuple hides it, whose parameters must have one name
        self.ahead = nn.ModuleList(TokenAhead(dim, layer(dim, index), norm, init) for index in range(depth))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the logits of the next token."""
        logits: Tensor = self.head(x_BTD)
        return logits

    def further_targets(self, x_BTD: Tensor, inputs_BT: Tensor, targets_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inner head's inputs for each further token, and its targets."""
        for k, module in enumerate(self.ahead, 1):
            if inputs_BT.shape[1] <= k:
                return
            x_BTD, read_BTD = module(x_BTD[:, : inputs_BT.shape[1] - k], self._embedding[0](inputs_BT[:, k:]))
            yield read_BTD, targets_BT[:, k:]

    @property
    def matrix(self) -> Tensor | None:
        """The weight of the inner head."""
        return getattr(self.head, "matrix", None)

    @property
    def soft_cap(self) -> float | None:
        """The bound of the inner head's logits."""
        return getattr(self.head, "soft_cap", None)

    @property
    def loss_terms(self) -> Any:
        """The terms of the inner head's loss."""
        return getattr(self.head, "loss_terms", None)

    @property
    def matrices(self) -> list[Tensor]:
        """The weights of the inner head's terms."""
        return list(getattr(self.head, "matrices", ()))


class TokenAhead(nn.Module):
    """One module of multi-token prediction.

    x: [B, T, D], of the token before, e: [B, T, D], the embedded token -> h [B, T, D] and norm(h).
    """

    def __init__(self, dim: int, layer: nn.Module, norm: Factory, init: Init) -> None:
        super().__init__()
        if getattr(layer, "num_streams", None) is not None:
            raise ValueError("a layer with several residual streams is none for a further token")
        self.x_norm, self.token_norm, self.layer, self.norm = norm(dim), norm(dim), layer, norm(dim)
        self.projection = linear(2 * dim, dim, bias=False, init=init)

    def forward(self, x_BTD: Tensor, token_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Join both, and apply the layer."""
        both = torch.cat((_call(self.x_norm, x_BTD), _call(self.token_norm, token_BTD)), -1)
        h_BTD = _call(self.layer, self.projection(both))
        return h_BTD, _call(self.norm, h_BTD)


def _call(part: nn.Module, x_BTD: Tensor) -> Tensor:
    """Return the output of a part that starts its stream."""
    y_BTD: Tensor = part(x_BTD)[0] if isinstance(part, Recurrent) else part(x_BTD)
    return y_BTD
