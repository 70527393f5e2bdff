from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, Write
from torch.utils.flop_counter import FlopCounterMode

from archlab import ConfigError
from archlab.config import experiment as config
from archlab.modeling.build import build, build_on_meta
from archlab.modeling.cost import estimate_cost
from archlab.modeling.loss import total_loss
from archlab.modeling.state import reserve_state, state_bytes
from archlab.modeling.step_recorder import StepRecorder
from archlab.modeling.step_trace import trace_state, trace_step
from archlab.ops.dispatch import use_backends
from archlab.ops.grouped_linear import grouped_backends
from archlab.ops.native import native_backends
from archlab.ops.native.library import unavailable_reason
from archlab.training.step import TrainStep

COUNTED = {
    "megalodon_7b": (7_385_817_088, 7_123_673_088),
    "megalodon_200m": (220_627_968, 155_091_968),
    "megalodon_1b3": (1_342_832_640, 1_211_760_640),
    "llama2_7b": (6_738_415_616, 6_476_271_616),
    "llama2_13b": (13_015_864_320, 12_688_184_320),
}
SHORT = ["train.batch_size=1", "train.context=128"]
LINEAR: dict[str, Any] = {
    "model": {
        "type": "stack",
        "vocab_size": 256,
        "dim": 16,
        "layers": [
            {
                "repeat": 3,
                "mixer": {"type": "attention", "num_heads": 1, "attention": "linear"},
                "ffn": {"type": "mlp", "hidden_dim": 24},
            }
        ],
    },
    "task": "stdlib",
    "train": {"batch_size": 1, "context": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COUNTED))
def test_published_sizes(name: str) -> None:
    figures = estimate_cost(config.load(name, SHORT))
    assert (figures.params, figures.params_non_embedding) == COUNTED[name]
    assert figures.weight_bytes == 4 * COUNTED[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["megalodon_tiny", "mega_tiny", "mega_chunk_tiny", "llama2_tiny"])
def test_figures_are_those_of_the_model_when_it_is_built(name: str) -> None:
    experiment = config.load(name, SHORT)
    model, figures = build(experiment.model), estimate_cost(experiment)
    _, state = model(torch.zeros(1, 128, dtype=torch.int64))
    _, later = model(torch.zeros(1, 200, dtype=torch.int64), state)
    whole = reserve_state(model, model.init_state(1))
    assert figures.state_bytes == sum(t.numel() * t.element_size() for t in state.values())
    assert figures.max_state_bytes == sum(t.numel() * t.element_size() for t in whole.values())
    assert figures.state_bytes == trace_state(experiment, build_on_meta(experiment.model)), "of a forward pass alone"
    assert figures.state_bytes <= sum(t.numel() * t.element_size() for t in later.values()) <= figures.max_state_bytes
    assert figures.params == sum(p.numel() for p in model.parameters())
    ends = model.embedding.weight.numel() + model.head.weight.numel()
    assert figures.params_non_embedding == figures.params - ends


@pytest.mark.slow
def test_flops_counted_by_hand(write: Write) -> None:
    bare = write(LINEAR)
    whole, without = estimate_cost(config.load(bare)), estimate_cost(config.load(bare, ["model.layers[0].ffn=none"]))
    ffn = 3 * 2 * (2 * 16 * 24)
    assert whole.flops_per_token_forward - without.flops_per_token_forward == ffn
    assert whole.flops_per_token - without.flops_per_token == 3 * ffn, "the gradients of inputs and of weights"
    shallow = estimate_cost(config.load(bare, ["model.layers[0].ffn=none", "model.layers[0].repeat=1"]))
    head = 2 * 16 * 256
    assert without.flops_per_token_forward - head == 3 * (shallow.flops_per_token_forward - head)
    assert shallow.flops_per_token_forward - head >= 2 * 4 * 16 * 16, "queries, keys, values and output are 16 x 16"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_flops_of_a_transformer_by_hand(checkpointed: bool) -> None:
    T, D, F, V, L = 128, 128, 320, 256, 4
    sizes = [f"train.context={T}", f"model.layers[0].ffn.hidden_dim={F}", f"model.layers[0].repeat={L}"]
    figures = trace_step(config.load("llama2_tiny", [*sizes, f"train.checkpoint_activations={checkpointed}"]))
    linear, attention, head = 2 * L * (4 * D * D + 3 * D * F), 2 * L * 2 * T * D, 2 * D * V
    assert figures.flops_per_token_forward == linear + attention + head
    # Attention's backward pass has five products for the forward pass's two; recomputing needs no block's last product.
    assert figures.recomputed_flops_per_token == (linear + attention - 2 * L * D * F if checkpointed else 0)
    assert figures.flops_per_token == 3 * (linear + head) + 7 * attention // 2


@pytest.mark.slow
def test_full_attention_costs_more_per_token_the_longer_the_context() -> None:
    costs = [estimate_cost(config.load("mega_tiny", [f"train.context={c}"])).flops_per_token for c in (128, 512)]
    chunked = [
        estimate_cost(config.load("mega_chunk_tiny", [f"train.context={c}"])).flops_per_token for c in (128, 512)
    ]
    assert costs[1] > costs[0]
    assert chunked[1] == pytest.approx(chunked[0], rel=0.01)


@pytest.mark.slow
def test_a_tied_matrix_is_counted_once(tiny: Tiny) -> None:
    apart, tied = (estimate_cost(tiny(f"model.head.tied={tied}")) for tied in ("false", "true"))
    assert apart.params - tied.params == 256 * 32
    assert apart.params_non_embedding == tied.params_non_embedding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["megalodon_tiny", "mamba_tiny", "gated_delta_net_tiny", "mixtral_tiny"])
def test_memory_is_that_of_a_step_on_a_cpu(name: str) -> None:
    sizes = ["train.batch_size=2", "train.context=128", "train.device=cpu", "train.precision=float32"]
    experiment = config.load(name, [*sizes, "train.compile=off", "train.clip=null"])
    step = TrainStep(experiment)
    step()  # AdamW's moments are there from the first step on
    recorder = StepRecorder()
    recorder.follow([*step.model.parameters(), *step.model.buffers()])
    recorder.follow(list(step.optimizer.state.values()))
    with recorder, use_backends((native_backends() if not unavailable_reason() else {}) | grouped_backends()):
        step()
    if not unavailable_reason():
        assert estimate_cost(experiment).memory_per_device == pytest.approx(recorder.peak, rel=0.02)


@pytest.mark.slow
def test_memory_has_what_each_optimizer_keeps(tiny: Tiny) -> None:
    adamw, lion, muon = (estimate_cost(tiny(f"train.optimizer={name}")) for name in ("adamw", "lion", "muon"))
    assert adamw.optimizer_bytes == 2 * lion.optimizer_bytes == 2 * adamw.weight_bytes
    assert lion.optimizer_bytes < muon.optimizer_bytes < adamw.optimizer_bytes
    for other in (lion, muon):
        kept = adamw.optimizer_bytes - other.optimizer_bytes
        assert adamw.memory_per_device - other.memory_per_device == kept


@pytest.mark.slow
def test_what_makes_a_step_larger(tiny: Tiny) -> None:
    figures, twice = estimate_cost(tiny()), estimate_cost(tiny("train.batch_size=4", "train.accumulate=3"))
    assert figures.tokens_per_step == 2 * 32
    assert twice.tokens_per_step == 4 * 3 * 32
    assert 1.5 * figures.activation_bytes < twice.activation_bytes <= 2 * figures.activation_bytes
    assert twice.flops_per_token == figures.flops_per_token


@pytest.mark.slow
def test_recomputed_activations_are_not_kept(tiny: Tiny) -> None:
    deep = "model.layers[0].repeat=8"
    kept, recomputed = (estimate_cost(tiny(deep, f"train.checkpoint_activations={c}")) for c in ("false", "true"))
    assert recomputed.activation_bytes < kept.activation_bytes / 3
    assert recomputed.params == kept.params


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2_tiny", "megalodon_tiny", "mamba_tiny"])
def test_selective_recomputation_repeats_no_product_and_keeps_less(name: str) -> None:
    words = ["model.layers[0].repeat=4", "train.context=128", "train.precision=float32"]
    kinds = ("false", "selective", "true")
    kept, selective, recomputed = (
        trace_step(config.load(name, [*words, f"train.checkpoint_activations={kind}"])) for kind in kinds
    )
    assert recomputed.activation_bytes < selective.activation_bytes < 0.8 * kept.activation_bytes
    assert selective.recomputed_flops_per_token == 0 < recomputed.recomputed_flops_per_token


@pytest.mark.slow
def test_nothing_is_allocated() -> None:
    experiment = config.load("llama2_7b", ["train.context=4096"])
    assert all(p.is_meta for p in build_on_meta(experiment.model).parameters())
    assert estimate_cost(experiment).memory_per_device > 1e11


def test_sizes_beyond_counting_are_refused_in_one_line(tiny: Tiny) -> None:
    window = "model.layers[*].mixer.attention={type: softmax, window: chunk, window_size: 16}"
    with pytest.raises(
        ConfigError, match=r"train\.context: a step of 1000000000000 x 1000000000000 tokens cannot be counted: "
    ) as caught:
        estimate_cost(tiny(window, "train.batch_size=1000000000000", "train.context=1000000000000"))
    assert "\n" not in str(caught.value)


def test_model_task_and_context_must_agree(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"model\.vocab_size: 64 is less than the 256 tokens of the task"):
        estimate_cost(tiny("model.vocab_size=64"))
    with pytest.raises(ConfigError, match=r"train\.context: 600 exceeds the 512 tokens that full attention keeps"):
        estimate_cost(config.load("mega_tiny", ["train.context=600"]))


@pytest.mark.slow
def test_a_window_costs_what_is_read_of_it(tiny: Tiny) -> None:
    window = "model.layers[*].mixer={type: attention, num_heads: 2, attention: {type: softmax, window_size: 131072}}"
    figures = estimate_cost(tiny(window))
    keys_and_values = 2 * 2 * 32 * 4  # of two layers, 32 wide, in float32
    positions = 3 * 8
    assert figures.state_bytes == 32 * keys_and_values + positions
    assert figures.max_state_bytes == 131_072 * keys_and_values + positions
    _, state = build_on_meta(tiny(window).model)(torch.zeros(1, 32, dtype=torch.int64, device="meta"))
    assert state_bytes(state) == figures.state_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["megalodon_tiny", "mamba2_tiny", "gated_delta_net_tiny", "rwkv7_tiny"])
def test_flops_are_those_that_torch_counts_of_a_real_step(name: str) -> None:
    experiment = config.load(name, ["train.batch_size=1", "train.context=128", "train.precision=float32"])
    model, inputs = build(experiment.model), torch.zeros(1, 128, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        total_loss(model, inputs, inputs)[0].backward()
    assert estimate_cost(experiment).flops_per_token == counter.get_total_flops() // 128
