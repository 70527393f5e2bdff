"""Letters in suffixes: B batch, T time, N tokens of all samples, D features, E experts, K experts of a token, G groups
of experts, M experts of a group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import (
    AUXILIARY_LOSS,
    UPDATE_SUM,
    Count,
    NonNegative,
    Param,
    Positive,
    Recurrent,
    State,
    Width,
    choice,
    register,
)
from archlab.components._init import Init, linear
from archlab.ops.dtypes import at_least_float32, without_autocast

from ._experts import Experts, GatedUnit, count_experts, shared_expert

_SCORES = "scores"


@register(
    "ffn",
    "moe",
    carry="associative",
    search={
        "num_experts": choice(4, 8, 16),
        "top_k": choice(1, 2, 4),
        "score": choice("softmax", "sigmoid"),
        "balance_loss": choice(0.0, 0.001, 0.01),
        "bias_rate": choice(None, 0.001),
    },
    params={
        "router.weight": Param("output"),
        "router.bias": Param("vector"),
        "experts.gate": Param("hidden", tensor="column", fan_out=1),
        "experts.up": Param("hidden", tensor="column", fan_out=1),
        "experts.down": Param("hidden", tensor="row", branch=True, fan_out=1),
        "experts.gate_bias": Param("vector", tensor="column", fan_out=1),
        "experts.up_bias": Param("vector", tensor="column", fan_out=1),
        "experts.down_bias": Param("vector", branch=True),
        "shared.gate.weight": Param("hidden", tensor="column"),
        "shared.gate.bias": Param("vector", tensor="column"),
        "shared.up.weight": Param("hidden", tensor="column"),
        "shared.up.bias": Param("vector", tensor="column"),
        "shared.down.weight": Param("hidden", tensor="row", branch=True),
        "shared.down.bias": Param("vector", branch=True),
        "latent_down.weight": Param("hidden"),
        "latent_down.bias": Param("vector"),
        "latent_up.weight": Param("hidden", branch=True),
        "latent_up.bias": Param("vector", branch=True),
        "shared_gate.weight": Param("output"),
    },
)
class MixtureOfExperts(Recurrent):
    """A mixture of SwiGLU experts, of which a router selects the top_k for each token; none is dropped.

    x: [B, T, D] -> [B, T, D].  Each token's output is the sum of its experts' outputs, weighted by their scores, plus
    that of a shared expert.  The scores are those of Mixtral (arXiv:2401.04088), OLMoE (arXiv:2409.02060) or
    DeepSeek-V3 (arXiv:2412.19437), which selects among the experts of the best groups.  The experts of gpt-oss
    (arXiv:2508.10925) have biases, clamp 7, gate_slope 1.702 and up_offset 1; those of Nemotron 3 have activation relu2
    and, in its larger models, a latent.
    State, where balance_loss or bias_rate is given: update_sum [B, E], the tokens of each expert; scores [B, E], the
    sums of their shares of a token's scores; auxiliary_loss [B].
    Raises ValueError where top_k experts cannot be selected from the groups, and for a knob of a part that is missing.
    Deviations: the scores are computed in at least float32. The balance loss is that of each sequence, as in
    DeepSeek-V3, and not of a batch, so that neither micro-batches nor ranks change it.

    Args:
        num_experts: Number of experts among which the router selects.
        top_k: Number of experts of a token.
        hidden_dim: Number of hidden features of an expert; null for 8/3 D / top_k, rounded up to a multiple of 8.
        activation: Hidden features of an expert and of the shared one: `swiglu`, silu(gate x) * up x, or `relu2`,
            relu(up x)^2 without a gate.
        latent_dim: Number of features to which a token is projected for its experts, and from which their sum is
            projected back; null for neither. The router and the shared expert see the token as it is.
        shared_dim: Number of hidden features of the shared expert; null for none.
        shared_gate: Whether the shared expert's output is multiplied by a sigmoid gate (Qwen2-MoE, arXiv:2407.10671).
        router_bias: Whether the router's logits have a bias.
        expert_bias: Whether the projections of an expert have biases.
        dense_bias: Whether the parts of every token, the shared expert and the projections to and from the latent, have
            biases.
        gate_slope: Factor of an expert's gate in its sigmoid, g * sigmoid(gate_slope * g); 1 is that of SwiGLU.
        up_offset: Number added to the features that an expert's gate multiplies.
        clamp: Largest gate of an expert, and largest magnitude of the features that it multiplies, before up_offset;
            null for no limit.
        score: Function of the router's logits: softmax over all experts, or a sigmoid of each.
        normalize: Whether the weights of a token's experts are divided by their sum.
        scale: Factor of the weights of a token's experts.
        num_groups: Number of groups of experts, each as good as the two best of its experts are together.
        top_groups: Number of groups from which a token's experts are selected.
        balance_loss: Factor of a loss that all experts are used alike, E * the sum of share * mean score over experts,
            where share is the part of the tokens that an expert has (arXiv:2101.03961).
        bias_rate: Step by which a bias of each expert, added to its score for the selection alone, rises or falls
            after an update in which it had fewer or more tokens than the mean (arXiv:2408.15664); null for no bias.
        init: Distribution of the weights.
    """

    bias: Tensor | None

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count = 8,
        top_k: Count = 2,
        hidden_dim: Width | None = None,
        activation: Literal["swiglu", "relu2"] = "swiglu",
        latent_dim: Width | None = None,
        shared_dim: Width | None = None,
        shared_gate: bool = False,
        router_bias: bool = False,
        expert_bias: bool = False,
        dense_bias: bool = False,
        gate_slope: Positive = 1.0,
        up_offset: float = 0.0,
        clamp: Positive | None = None,
        score: Literal["softmax", "sigmoid"] = "softmax",
        normalize: bool = True,
        scale: Positive = 1.0,
        num_groups: Count = 1,
        top_groups: Count = 1,
        balance_loss: NonNegative = 0.01,
        bias_rate: NonNegative | None = None,
        init: Init = "he",
    ) -> None:
        super().__init__()
        _check_groups(num_experts, top_k, num_groups, top_groups)
        if shared_gate and shared_dim is None:
            raise ValueError("shared_gate true needs a shared_dim: without a shared expert there is nothing to gate")
        if dense_bias and shared_dim is None and latent_dim is None:
            raise ValueError("dense_bias true needs a shared_dim or a latent_dim, whose projections have the biases")
        self.num_experts, self.top_k, self.score, self.normalize = num_experts, top_k, score, normalize
        self.scale, self.num_groups, self.top_groups = scale, num_groups, top_groups
        self.balance_loss, self.bias_rate = balance_loss, bias_rate
        self.router = linear(dim, num_experts, bias=router_bias, init=init)
        hidden_dim, unit = hidden_dim or 8 * -(-dim // (3 * top_k)), _unit(activation, gate_slope, up_offset, clamp)
        self.latent_down = linear(dim, latent_dim, bias=dense_bias, init=init) if latent_dim else None
        self.experts = Experts(latent_dim or dim, num_experts, hidden_dim, init, unit=unit, bias=expert_bias)
        self.latent_up = linear(latent_dim, dim, bias=dense_bias, init=init) if latent_dim else None
        self.shared = shared_expert(dim, shared_dim, activation, dense_bias, init) if shared_dim else None
        self.shared_gate = linear(dim, 1, bias=False, init=init) if shared_gate else None
        self.register_buffer("bias", None if bias_rate is None else torch.zeros(num_experts))

    @property
    def idle_params(self) -> int:
        """The number of parameters that a token does not use."""
        return sum(p.numel() for p in self.experts.parameters()) * (self.num_experts - self.top_k) // self.num_experts

    def init_state(self, batch_size: int) -> State:
        """Return sums of no tokens; nothing where they are not needed."""
        if not self._counts():
            return {}
        scores_BE = at_least_float32(self.router.weight).new_zeros(batch_size, self.num_experts)
        return self.enter({UPDATE_SUM: torch.zeros_like(scores_BE, dtype=torch.int64), _SCORES: scores_BE})

    def _counts(self) -> bool:
        return self.balance_loss > 0 or self.bias_rate is not None

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Send each token through its experts."""
        score_BTE = self._scores(x_BTD)
        expert_BTK = self._select(score_BTE.detach())
        weight_BTK = score_BTE.gather(-1, expert_BTK)
        if self.normalize:
            weight_BTK = weight_BTK / (weight_BTK.sum(-1, keepdim=True) + 1e-20)
        weight_BTK = weight_BTK * self.scale
        y_BTD = self._routed_output(x_BTD, expert_BTK, weight_BTK)
        if self.shared is not None:
            y_BTD = y_BTD + self._shared_output(x_BTD, self.shared)
        return y_BTD, self._new_state(score_BTE, expert_BTK, state)

    def _routed_output(self, x_BTD: Tensor, expert_BTK: Tensor, weight_BTK: Tensor) -> Tensor:
        """Return the sum of each token's experts, which see it projected where there is a latent."""
        latent = x_BTD if self.latent_down is None else self.latent_down(x_BTD)
        inputs = (latent, expert_BTK, weight_BTK)
        y = self.experts(*(tensor.flatten(0, 1) for tensor in inputs)).unflatten(0, x_BTD.shape[:2])
        bias = self.experts.sum_biases(expert_BTK, weight_BTK)
        if bias is not None:
            y = y + bias.to(y.dtype)
        return y if self.latent_up is None else self.latent_up(y)

    def _scores(self, x_BTD: Tensor) -> Tensor:
        with without_autocast(x_BTD):
            bias_E = None if self.router.bias is None else at_least_float32(self.router.bias)
            logits_BTE = F.linear(at_least_float32(x_BTD), at_least_float32(self.router.weight), bias_E)
            return logits_BTE.softmax(-1) if self.score == "softmax" else logits_BTE.sigmoid()

    def _select(self, score_BTE: Tensor) -> Tensor:
        """Return the experts of each token [B, T, K], the best one first."""
        if self.bias is not None:
            score_BTE = score_BTE + self.bias
        if self.num_groups > 1:
            score_BTGM = score_BTE.unflatten(-1, (self.num_groups, -1))
            best_BTG = score_BTGM.topk(min(2, score_BTGM.shape[-1]), -1).values.sum(-1)
            top_BTG = best_BTG.topk(self.top_groups, -1).indices
            is_out_BTG = torch.ones_like(best_BTG, dtype=torch.bool).scatter(-1, top_BTG, False)
            score_BTE = score_BTGM.masked_fill(is_out_BTG[..., None], -torch.inf).flatten(-2)
        return score_BTE.topk(self.top_k, -1).indices

    def _shared_output(self, x_BTD: Tensor, shared: nn.Module) -> Tensor:
        y_BTD: Tensor = shared(x_BTD)
        return y_BTD if self.shared_gate is None else self.shared_gate(x_BTD).sigmoid() * y_BTD

    def _new_state(self, score_BTE: Tensor, expert_BTK: Tensor, state: State | None) -> State:
        if not self._counts():
            return {}
        own = self._sums(score_BTE, expert_BTK)
        return self.enter(own if state is None else self.merge(state, own))

    def _sums(self, score_BTE: Tensor, expert_BTK: Tensor) -> State:
        """Return the tokens' counts for the state."""
        counts_BE = count_experts(expert_BTK.flatten(1), self.num_experts)
        return {UPDATE_SUM: counts_BE, _SCORES: (score_BTE / score_BTE.sum(-1, keepdim=True)).sum(1)}

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the counts of a piece of the sequence for the state; nothing without a state."""
        if not self._counts():
            return {}
        score_BTE = self._scores(x_BTD)
        return self._sums(score_BTE, self._select(score_BTE.detach()))

    def merge(self, earlier: State, later: State) -> State:
        """Return the sums of two pieces."""
        return {name: earlier[name] + later[name] for name in (UPDATE_SUM, _SCORES)}

    def enter(self, summary: State) -> State:
        """Return the state after a piece: its sums, and the loss that they make."""
        counts_BE, scores_BE = summary[UPDATE_SUM], summary[_SCORES]
        num_tokens_B = (counts_BE.sum(-1) // self.top_k).clamp(min=1)
        # The loss of a sequence is E times the sum of (counts / T) * (scores / T); this is the sum over its T tokens.
        loss_B = self.num_experts * (counts_BE * scores_BE).sum(-1) / num_tokens_B
        return {UPDATE_SUM: counts_BE, _SCORES: scores_BE, AUXILIARY_LOSS: self.balance_loss * loss_B}

    @torch.no_grad()
    def finish_update(self, sum_E: Tensor) -> None:
        """Raise the bias of each expert that had fewer tokens in an update than the mean, and lower the others'."""
        if self.bias is not None and self.bias_rate:
            lack_E = sum_E.sum() - self.num_experts * sum_E  # whole numbers, so that its sign has no rounding
            self.bias.add_(lack_E.sign().to(self.bias), alpha=self.bias_rate)


def _unit(activation: str, gate_slope: float, up_offset: float, clamp: float | None) -> GatedUnit | None:
    unit = GatedUnit(gate_slope, up_offset, clamp)
    if activation == "relu2" and unit != GatedUnit():
        raise ValueError("activation relu2 has no gate: it needs gate_slope 1, up_offset 0 and clamp null")
    return None if activation == "relu2" else unit


def _check_groups(num_experts: int, top_k: int, num_groups: int, top_groups: int) -> None:
    if num_experts % num_groups:
        raise ValueError(f"num_groups {num_groups} does not divide num_experts {num_experts}")
    if top_groups > num_groups:
        raise ValueError(f"top_groups {top_groups} is more than the num_groups {num_groups}")
    in_reach = num_experts // num_groups * top_groups
    if top_k > in_reach:
        raise ValueError(f"top_k {top_k} is more than the {in_reach} experts that a token can select from")
