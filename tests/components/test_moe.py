"""The mixture of experts agrees with the layers of transformers and with loops over tokens, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from hugging_face_helpers import transformers
from run_helpers import Recorder, curve, interrupt_at, same_weights
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from archlab import AUXILIARY_LOSS, UPDATE_SUM, ConfigError
from archlab.config.registry import find
from archlab.modeling.build import configure_backends
from archlab.modeling.cost import estimate_cost
from archlab.modeling.state import init_state
from archlab.ops.dispatch import reference_only
from archlab.testing import checks
from archlab.testing.component_case import ComponentCase
from archlab.testing.parallel import several_processes_equal_one
from archlab.training.step import TrainStep
from archlab.training.trainer import train

D, H, S, E, K = 10, 7, 6, 9, 3  # features, hidden ones of an expert and of the shared one, experts, those of a token
SIZES = {"hidden_size": D, "num_experts_per_tok": K, "hidden_act": "silu"}
OWN = {"num_experts": E, "top_k": K, "hidden_dim": H}
DEEPSEEK = SIZES | {
    "n_routed_experts": E,
    "moe_intermediate_size": S // 2,
    "n_shared_experts": 2,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
}
GROUPED = {"score": "sigmoid", "num_groups": 3, "top_groups": 2, "scale": 2.5, "shared_dim": S, "bias_rate": 0.001}
CLAMPED = {"router_bias": True, "expert_bias": True, "gate_slope": 1.702, "up_offset": 1.0, "clamp": 0.4}


def theirs(block: type, config: str, **fields: Any) -> nn.Module:
    return block(getattr(transformers, f"{config}Config")(**(SIZES | fields)))


CASES = {
    "mixtral": (
        lambda: theirs(MixtralSparseMoeBlock, "Mixtral", intermediate_size=H, num_local_experts=E),
        OWN,
    ),
    "olmoe": (
        lambda: theirs(OlmoeSparseMoeBlock, "Olmoe", intermediate_size=H, num_experts=E, norm_topk_prob=False),
        OWN | {"normalize": False},
    ),
    "qwen2_moe": (
        lambda: theirs(
            Qwen2MoeSparseMoeBlock,
            "Qwen2Moe",
            moe_intermediate_size=H,
            shared_expert_intermediate_size=S,
            num_experts=E,
            norm_topk_prob=False,
        ),
        OWN | {"normalize": False, "shared_dim": S, "shared_gate": True},
    ),
    "qwen3_moe": (
        lambda: theirs(Qwen3MoeSparseMoeBlock, "Qwen3Moe", moe_intermediate_size=H, num_experts=E, norm_topk_prob=True),
        OWN,
    ),
    "gpt_oss": (
        lambda: theirs(GptOssMLP, "GptOss", intermediate_size=H, num_local_experts=E, swiglu_limit=0.4),
        OWN | CLAMPED,
    ),
    "deepseek_v3": (lambda: theirs(DeepseekV3MoE, "DeepseekV3", **DEEPSEEK), OWN | GROUPED | {"hidden_dim": S // 2}),
    "deepseek_v3-plain": (
        lambda: theirs(DeepseekV3MoE, "DeepseekV3", **DEEPSEEK | {"norm_topk_prob": False}),
        OWN | GROUPED | {"hidden_dim": S // 2, "normalize": False},
    ),
}
NEMOTRON = {
    "n_routed_experts": E,
    "num_experts_per_tok": K,
    "hidden_size": D,
    "moe_intermediate_size": H,
    "moe_shared_expert_intermediate_size": S,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
}
CASES |= {
    "nemotron_h": (
        lambda: NemotronHMoE(transformers.NemotronHConfig(**NEMOTRON)),
        OWN | GROUPED | {"activation": "relu2"},
    ),
    "nemotron_h-latent-biased": (
        lambda: NemotronHMoE(transformers.NemotronHConfig(**NEMOTRON, moe_latent_size=4, mlp_bias=True)),
        OWN | GROUPED | {"activation": "relu2", "latent_dim": 4, "dense_bias": True},
    ),
}
NAMES = {
    "experts.up_proj": "experts.up",
    "shared_experts.up_proj.bias": "shared.up.bias",
    "shared_experts.down_proj.bias": "shared.down.bias",
    "fc1_latent_proj.weight": "latent_down.weight",
    "fc1_latent_proj.bias": "latent_down.bias",
    "fc2_latent_proj.weight": "latent_up.weight",
    "fc2_latent_proj.bias": "latent_up.bias",
    "gate.weight": "router.weight",
    "router.weight": "router.weight",
    "router.bias": "router.bias",
    "experts.down_proj_bias": "experts.down_bias",
    "experts.down_proj": "experts.down",
    "shared_experts.gate_proj.weight": "shared.gate.weight",
    "shared_experts.up_proj.weight": "shared.up.weight",
    "shared_experts.down_proj.weight": "shared.down.weight",
    "shared_expert.gate_proj.weight": "shared.gate.weight",
    "shared_expert.up_proj.weight": "shared.up.weight",
    "shared_expert.down_proj.weight": "shared.down.weight",
    "shared_expert_gate.weight": "shared_gate.weight",
    "gate.e_score_correction_bias": "bias",
}


def build(**knobs: Any) -> Any:
    torch.manual_seed(0)
    return find("ffn", "moe").cls(knobs.pop("dim", D), **knobs).double()


def as_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of theirs by our names; their gates and ups are one."""
    joined, biases = "experts.gate_up_proj", "experts.gate_up_proj_bias"
    renamed = {NAMES[name]: tensor for name, tensor in tensors.items() if name not in (joined, biases)}
    if joined not in tensors:  # of experts without a gate
        return renamed
    if biases not in tensors:
        gate, up = tensors[joined].chunk(2, 1)
        return renamed | {"experts.gate": gate, "experts.up": up}
    # Those of gpt-oss are [inputs, outputs], with gates and ups in turn.
    renamed["experts.down"] = renamed["experts.down"].mT
    for name, (gate, up) in {"": turns(tensors[joined].mT), "_bias": turns(tensors[biases])}.items():
        renamed |= {f"experts.gate{name}": gate, f"experts.up{name}": up}
    return renamed


def turns(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor[:, ::2], tensor[:, 1::2]


def run(layer: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    dx, *gradients = torch.autograd.grad(y, (x, *parameters), slope)
    return y.detach(), {"x": dx} | dict(zip(names, gradients, strict=True))


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("opaque", [True, False], ids=["opaque", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_every_gradient_are_those_of_transformers(
    case: str, opaque: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_backends()
    make, knobs = CASES[case]
    other, x = make().double(), draw(2, 13, D)
    with torch.no_grad():
        for seed, (_, tensor) in enumerate(sorted(other.state_dict().items())):
            tensor.copy_(0.5 * draw(*tensor.shape, seed=seed))
    ours = build(**knobs)
    ours.load_state_dict(as_ours(other.state_dict()))
    if opaque:
        y, gradients = run(ours, x)
    else:
        with reference_only():
            y, gradients = run(ours, x)
    # They compute scores in float32, whatever the dtype: here, to compare to the last digit, in float64.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for name in ("float", "float32"):
        monkeypatch.setattr(torch, name, torch.float64)
    expected, wanted = run(other, x)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    dx = wanted.pop("x")
    torch.testing.assert_close(gradients, as_ours(wanted) | {"x": dx}, rtol=1e-12, atol=1e-13)


def expert_of(layer: Any, index: int, x: Tensor) -> Tensor:
    gate, up, down = (tensor[index] for tensor in (layer.experts.gate, layer.experts.up, layer.experts.down))
    return down @ (F.silu(gate @ x) * (up @ x))


def test_a_loop_over_tokens_gives_the_same() -> None:
    layer, x = build(**OWN, score="sigmoid", scale=1.7, bias_rate=0.1), draw(2, 5, D)
    layer.bias.copy_(draw(E))
    expected = []
    for token in x.flatten(0, 1):
        scores = (layer.router.weight @ token).sigmoid()
        best = sorted(range(E), key=lambda e: -float(scores[e].detach() + layer.bias[e]))[:K]
        total = sum(scores[e] for e in best)
        expected.append(sum(1.7 * scores[e] / total * expert_of(layer, e, token) for e in best))
    torch.testing.assert_close(layer(x)[0], torch.stack(expected).view(2, 5, D))


def test_the_balance_loss_is_that_of_transformers_for_one_sequence() -> None:
    layer, x = build(**OWN, balance_loss=0.3), draw(3, 11, D)
    found = layer(x)[1][AUXILIARY_LOSS] / 11
    for loss, sequence in zip(found.detach(), x, strict=True):
        expected = load_balancing_loss_func((sequence @ layer.router.weight.detach().mT,), E, K)
        assert float(loss) == pytest.approx(0.3 * float(expected), rel=1e-6)  # theirs is in float32


def test_the_balance_loss_is_that_of_deepseek_v3() -> None:
    """Equations 17 to 20 of its report, whose factor is K times ours."""
    layer, x = build(**OWN, score="sigmoid", balance_loss=0.3), draw(2, 11, D)
    found = layer(x)[1][AUXILIARY_LOSS]
    for loss, sequence in zip(found.detach(), x, strict=True):
        scores = (sequence @ layer.router.weight.detach().mT).sigmoid()
        expected = 0.0
        for e in range(E):
            f = E / (K * 11) * sum(int(e in row.topk(K).indices) for row in scores)
            expected += f * sum(float(row[e] / row.sum()) for row in scores) / 11
        assert float(loss) == pytest.approx(K * 0.3 * expected * 11, rel=1e-12)


def test_the_bias_moves_by_the_sign_of_each_experts_lack() -> None:
    layer = build(**OWN, bias_rate=0.25)
    layer.finish_update(torch.tensor([3, 3, 3, 3, 3, 3, 3, 0, 6]))
    assert layer.bias.tolist() == [0, 0, 0, 0, 0, 0, 0, 0.25, -0.25]
    layer.finish_update(torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert layer.bias.tolist() == [0.25, -0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0]


def test_the_bias_chooses_and_does_not_weigh() -> None:
    layer, x = build(**OWN, normalize=False, bias_rate=0.1), draw(1, 1, D)
    layer.bias[4] = 10.0
    layer.experts.down.data[[e for e in range(E) if e != 4]] = 0
    scores = (layer.router.weight @ x[0, 0]).softmax(-1)
    torch.testing.assert_close(layer(x)[0][0, 0], scores[4] * expert_of(layer, 4, x[0, 0]))


def test_counts_are_those_of_the_selected_experts() -> None:
    layer, x = build(**OWN), draw(2, 5, D)
    scores = (x @ layer.router.weight.mT).softmax(-1)
    expected = [[int((row.topk(K).indices == e).sum()) for e in range(E)] for row in scores]
    assert layer(x)[1][UPDATE_SUM].tolist() == expected


@pytest.mark.parametrize(("balance_loss", "bias_rate", "has_state"), [(0, None, False), (1, None, True), (0, 0, True)])
def test_there_is_state_only_where_something_reads_it(
    balance_loss: float, bias_rate: float | None, has_state: bool
) -> None:
    layer = build(**OWN, balance_loss=balance_loss, bias_rate=bias_rate)
    assert bool(init_state(layer, 2)) is bool(layer(draw(2, 3, D))[1]) is has_state


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"num_experts": 4, "top_k": 5}, "top_k 5 is more than the 4 experts"),
        ({"num_groups": 3}, "num_groups 3 does not divide num_experts 8"),
        ({"num_groups": 2, "top_groups": 3}, "top_groups 3 is more than the num_groups 2"),
        ({"num_groups": 4, "top_k": 3}, "top_k 3 is more than the 2 experts"),
        ({"shared_gate": True}, "needs a shared_dim"),
        ({"dense_bias": True}, "needs a shared_dim or a latent_dim"),
        ({"activation": "relu2", "clamp": 7.0}, "relu2 has no gate"),
    ],
)
def test_what_cannot_be_selected_is_refused(knobs: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build(**knobs)


def test_by_default_a_token_computes_as_much_as_in_a_dense_layer() -> None:
    dense = sum(p.numel() for p in find("ffn", "swiglu").cls(96).parameters())
    layer = build(dim=96, num_experts=8, top_k=2)
    active = sum(p.numel() for p in layer.parameters()) - layer.idle_params - layer.router.weight.numel()
    assert active == dense


OTHERS = {
    "deepseek": GROUPED | {"num_experts": 6, "num_groups": 3, "top_groups": 2, "top_k": 2, "hidden_dim": 8},
    "stateless": {"num_experts": 5, "top_k": 1, "normalize": False, "balance_loss": 0, "hidden_dim": 8},
    "clamped": CLAMPED | {"num_experts": 4, "top_k": 2, "hidden_dim": 8},
    "gated": {"num_experts": 4, "top_k": 4, "shared_dim": 12, "shared_gate": True, "hidden_dim": 8, "balance_loss": 0},
}
OTHERS["ungated"] = {"num_experts": 5, "top_k": 2, "hidden_dim": 8, "activation": "relu2", "expert_bias": True}
OTHERS["ungated"] |= {"latent_dim": 6, "shared_dim": 12, "dense_bias": True}
VARIED = ("has_no_dead_knob", "declares_parameters", "several_processes_equal_one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, knobs in OTHERS.items()
        for check in checks("ffn", "moe", **knobs)
        if str(check) not in VARIED
    ],
)
def test_other_routers_pass_the_suite(check: Any) -> None:
    check()


@pytest.mark.services
@pytest.mark.parametrize("knobs", OTHERS.values(), ids=OTHERS)
def test_other_routers_in_several_processes(knobs: dict[str, Any]) -> None:
    several_processes_equal_one(ComponentCase("ffn", "moe", knobs))


MOE = "model.layers[0].ffn={type: moe, num_experts: 4, top_k: 2, hidden_dim: 24, bias_rate: 0.01, balance_loss: 0.02}"


def biases(step: TrainStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.model.named_buffers() if name.endswith("ffn.bias")}


@pytest.mark.slow
@pytest.mark.parametrize("own", [(), ("train.checkpoint_activations=true",)], ids=["", "recomputed"])
def test_the_bias_is_the_same_however_an_update_is_cut(own: tuple[str, ...], tiny: Tiny) -> None:
    found = []
    for batch_size, accumulate in ((4, 1), (2, 2), (1, 4)):
        cut = [f"train.batch_size={batch_size}", f"train.accumulate={accumulate}"]
        step = TrainStep(tiny("model.layers[0].dropout=0", "train.lr=0.01", MOE, *cut, *own))
        for _ in range(3):
            step()
        found.append(biases(step))
    assert found[0]
    assert all(bias.any() for bias in found[0].values())
    torch.testing.assert_close(found[1:], [found[0]] * 2, rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_with_a_bias_continues_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(MOE), whole)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(MOE), run, callbacks=[Recorder(interrupt_at(5))])
    train(tiny(MOE), run, resume=True)
    assert curve(run) == curve(whole)
    assert same_weights(run, whole)


def test_separate_documents_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"blocks\.0\.ffn sums a loss of its own, or counts"):
        estimate_cost(tiny(MOE, "train.documents=separate"))


@pytest.mark.slow
def test_costs_are_those_of_the_experts_that_a_token_has(tiny: Tiny) -> None:
    """As many FLOPs as a dense layer of their width, and those of the router's matrix."""
    dim, layers = 32, 2
    dense = estimate_cost(tiny("model.layers[0].ffn={type: swiglu, hidden_dim: 48}"))
    mixed = estimate_cost(tiny(MOE))
    assert mixed.params - dense.params == layers * (2 * 3 * dim * 24 + 4 * dim)
    assert mixed.params_active - dense.params_active == layers * 4 * dim
    assert mixed.flops_per_token - dense.flops_per_token == layers * 6 * 4 * dim
    assert dense.params_active == dense.params
