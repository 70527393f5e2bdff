"""The conformance suite on every registered component, so that a new one is tested without a test of its own."""

import random

import pytest
import torch
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archlab.config.registry import find, kinds, names
from archlab.config.spec import parse
from archlab.modeling.state import reserve_state
from archlab.testing import Check, ComponentCase, checks, random_case
from archlab.testing.checks import default_checks
from archlab.testing.component_case import loss_of
from archlab.testing.export import exports
from archlab.testing.gradient_checks import compiles, has_exact_gradients
from archlab.testing.parallel import several_processes_equal_one
from archlab.testing.stream_checks import (
    chunked_equals_whole,
    has_fixed_size_state,
    is_causal,
)

WINDOW = {"window": "sliding", "window_size": 5}
SOFTMAX = {"type": "softmax", **WINDOW}
BLOCK = {"type": "block", "mixer": {"type": "attention", "attention": SOFTMAX}}
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
WAVES = torch.rand(2, 24, generator=torch.Generator().manual_seed(4))
# Widths that fit the small models, and windows that end within their few words.
SMALL = {
    ("attention", "softmax"): WINDOW,
    ("attention", "laplace"): WINDOW,
    ("attention", "relu2"): WINDOW,
    ("attention", "stick_breaking"): WINDOW,
    ("attention", "infini"): {"segment_size": 4},
    ("attention", "compressive"): {"window_size": 4, "memory_size": 4, "compressed_size": 2},
    ("backbone", "stack"): {
        "vocab_size": 17,
        "dim": 32,
        "layers": [{"repeat": 2, "mixer": {"type": "attention", "attention": SOFTMAX}}],
    },
    ("backbone", "megabyte"): {
        "vocab_size": 17,
        "dim": 32,
        "patch_size": 4,
        "local_dim": 8,
        "layers": [{"mixer": {"type": "attention", "attention": SOFTMAX}}],
        "local_layers": [{"mixer": "attention"}],
    },
    ("embedding", "adaptive"): {"cutoffs": [5, 9], "factor": 2},
    ("embedding", "patches"): {"patch_size": 4, "num_channels": 3},
    ("embedding", "frames"): {"frame_size": 3, "num_channels": 1},
    ("head", "adaptive"): {"cutoffs": [5, 9], "factor": 2},
    ("head", "classifier"): {"num_outputs": 3},
    ("head", "multi_token"): {
        "depth": 2,
        "layer": BLOCK,
    },
    ("layer", "block"): {"mixer": {"type": "attention", "attention": SOFTMAX}},
    ("mixer", "attention"): {"attention": SOFTMAX},
    ("mixer", "block_recurrent"): {"block_size": 4, "num_states": 3},
    ("mixer", "forgetting"): WINDOW,
    ("mixer", "log_linear_mamba2"): {"num_levels": 4, "head_dim": 8, "state_dim": 5},
    ("mixer", "mamba2"): {"head_dim": 8, "state_dim": 5},
    ("mixer", "mesa_net"): {"key_dim": 16, "num_steps": 4},  # as many as a key has features: exact
    ("mixer", "mla"): {"latent_dim": 12, "position_dim": 4, **WINDOW},
    ("mixer", "mega"): {"shared_dim": 16, "value_dim": 32, "attention": SOFTMAX},
    ("mixer", "megalodon"): {"shared_dim": 16, "value_dim": 32, "attention": SOFTMAX},
    ("mixer", "parallel"): {
        "first": {"type": "mamba2", "head_dim": 8, "state_dim": 5},
        "second": {"type": "attention", "attention": SOFTMAX},
    },
    ("mixer", "rwkv6"): {"head_dim": 8, "mix_rank": 4, "decay_rank": 6},
    ("mixer", "rwkv7"): {"head_dim": 8, "decay_rank": 4, "rate_rank": 5, "gate_rank": 6},
    ("mixer", "native_sparse"): {"block_size": 2, "num_selected": 3, "sliding_size": 3, "window_size": 8},
    ("norm", "timestep"): {"num_groups": 4},
}
# Knobs that are off unless asked for, and change what the ranks of several processes divide or what a state holds.
CHUNKS = {"type": "softmax", "window": "chunk", "window_size": 5}
SWITCHED_ON = {
    "output_gate-head": ("mixer", "attention", {"output_gate": "head", "qk_norm": "rms", "attention": SOFTMAX}),
    "output_gate-feature": (
        "mixer",
        "attention",
        {
            "output_gate": "feature",
            "qk_norm": "rms",
            "num_kv_heads": 2,
            "bias": True,
            "attention": CHUNKS | {"soft_cap": 5.0, "sinks": True},
        },
    ),
    "query_latent_dim": ("mixer", "mla", {"query_latent_dim": 10, "latent_dim": 12, "position_dim": 4, **WINDOW}),
    "forgetting-chunk": (
        "mixer",
        "forgetting",
        {"window": "chunk", "window_size": 5, "num_kv_heads": 2, "position": "rope", "output_gate": "head"},
    ),
    "forgetting-full": ("mixer", "forgetting", {"window_size": 16, "position": "alibi", "qk_norm": "rms"}),
    "native_sparse-groups": (
        "mixer",
        "native_sparse",
        {"num_kv_heads": 2, "block_size": 3, "num_selected": 3, "window_size": 15, "position": "alibi", "bias": True},
    ),
    "values_per_key": ("mixer", "gated_delta_net", {"num_heads": 2, "values_per_key": 2}),
    "value_residual": ("mixer", "attention", {"value_residual": True, "num_kv_heads": 2, "attention": CHUNKS}),
    "share_kv": ("mixer", "attention", {"share_kv": True, "qk_norm": "rms", "attention": SOFTMAX}),
    "share_kv-chunk": ("mixer", "attention", {"share_kv": True, "num_kv_heads": 2, "attention": CHUNKS}),
    "value_residual-rwkv7": (
        "mixer",
        "rwkv7",
        {"value_residual": True, "value_rank": 3, "head_dim": 8, "decay_rank": 4, "rate_rank": 5, "gate_rank": 6},
    ),
    "inner_norm": ("mixer", "mamba", {"inner_norm": "rms"}),
    "timestep-decay": ("norm", "timestep", {"num_groups": 4, "decay": 0.8}),
    "adaptive-tied": ("head", "adaptive", {"tied": True, "tied_projections": True}),
    "factored-tied": ("head", "factored", {"tied": True}),
    "multi_token-tied": (
        "head",
        "multi_token",
        {
            "layer": BLOCK,
            "head": {"type": "language_model", "tied": True},
        },
    ),
    "multi_token-adaptive": (
        "head",
        "multi_token",
        {
            "layer": BLOCK,
            "head": {"type": "adaptive", "tied": True},
        },
    ),
    "mamba2-norm_before_gate": (
        "mixer",
        "mamba2",
        {"head_dim": 8, "state_dim": 5, "width": 24, "output_norm": "before_gate", "dt_factor": 0.5, "dt_floor": 0.01},
    ),
    "mamba2-without-norm": ("mixer", "mamba2", {"head_dim": 8, "state_dim": 5, "output_norm": "none", "x_factor": 2.0}),
    "loops": (
        "backbone",
        "stack",
        {
            "vocab_size": 17,
            "dim": 32,
            "layers": [
                {"mixer": {"type": "hgrn2", "num_heads": 2}},
                {"mixer": {"type": "attention", "attention": SOFTMAX}, "ffn": {"type": "moe", "num_experts": 3}},
                {"mixer": {"type": "rwkv4"}},
            ],
            "loops": 2,
            "prelude": 1,
        },
    ),
    "logits-soft_cap": ("head", "language_model", {"soft_cap": 5.0}),
    "output_norm": (
        "layer",
        "block",
        {"mixer": {"type": "attention", "attention": SOFTMAX}, "output_norm": "rms", "ffn_output_norm": "rms"},
    ),
}
INPUTS = {("embedding", "patches"): IMAGES, ("embedding", "frames"): WAVES}
PARTS = [(kind, name) for kind in kinds() if kind != "task" for name in names(kind)]
OF_MODELS = [(kind, name) for kind, name in PARTS if kind != "optimizer"]


def subject(kind: str, name: str) -> ComponentCase:
    return ComponentCase(kind, name, SMALL.get((kind, name), {}), INPUTS.get((kind, name)))


def every_check() -> dict[str, Check]:
    found = {}
    for kind, name in PARTS:
        for check in checks(kind, name, INPUTS.get((kind, name)), **SMALL.get((kind, name), {})):
            found[f"{kind}-{name}-{check}"] = check
    return found


EVERY = every_check()


SEVERAL = "several_processes_equal_one"
SEVERAL_IDS = [name for name in EVERY if name.endswith(SEVERAL)]
SLOW = ("compiles", "exports", "has_no_dead_knob", "allocates_what_it_reads", "transfers")


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=name, marks=[pytest.mark.slow] * name.endswith(SLOW))
        for name, check in EVERY.items()
        if not name.endswith(SEVERAL)
    ],
)
def test_every_component(check: Check) -> None:
    check()


@pytest.mark.services
@pytest.mark.parametrize("check", [check for name, check in EVERY.items() if name.endswith(SEVERAL)], ids=SEVERAL_IDS)
def test_every_component_in_several_processes(check: Check) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize("case", [ComponentCase(*case) for case in SWITCHED_ON.values()], ids=SWITCHED_ON)
def test_knobs_switched_on(case: ComponentCase) -> None:
    for check in (*default_checks(), exports):
        if check is not compiles:  # the slowest, and the one that depends least on a knob
            check(case)


@pytest.mark.services
@pytest.mark.parametrize("case", [ComponentCase(*case) for case in SWITCHED_ON.values()], ids=SWITCHED_ON)
def test_knobs_switched_on_in_several_processes(case: ComponentCase) -> None:
    several_processes_equal_one(case)


@pytest.mark.slow
@settings(max_examples=80 if THOROUGH else 24, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(part=st.sampled_from(OF_MODELS), chance=st.randoms(use_true_random=False))
def test_whatever_the_knobs(part: tuple[str, str], chance: random.Random) -> None:
    kind, name = part
    fixed = SMALL.get(part, {}) if kind in ("backbone", "embedding") else {}
    drawn = random_case(ComponentCase(kind, name, fixed, INPUTS.get(part)), chance)
    for check in (is_causal, chunked_equals_whole, has_fixed_size_state, has_exact_gradients):
        check(drawn)


def layer_of(mixer: str, **others: object) -> dict[str, object]:
    return {
        "mixer": {"type": mixer} | SMALL.get(("mixer", mixer), {}),
        "ffn": {"type": "mlp", "hidden_dim": 32},
    } | others


PAIRS = {
    f"{mixer}-{kind}-{name}": layer_of(mixer, **{kind: {"type": name} | SMALL.get((kind, name), {})})
    for mixer in names("mixer")
    for kind in ("residual", "norm")
    for name in names(kind)
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", PAIRS.values(), ids=PAIRS)
def test_every_mixer_learns_with_every_residual_and_norm(layer: dict[str, object]) -> None:
    pair = ComponentCase("layer", "block", layer)
    model = pair.build(torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = loss_of(model, pair.example_inputs())
    before.backward()
    optimizer.step()
    assert loss_of(model, pair.example_inputs()) < before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "ema", "ffn", "mixer", "norm", "position", "residual"])
def test_a_component_can_be_described_and_built_again(kind: str) -> None:
    for name in names(kind):
        spec = subject(kind, name).spec()
        assert parse(spec.to_plain(), "backbone", "model").to_plain() == spec.to_plain()


@pytest.mark.slow
@torch.no_grad()
def test_decoding_compiles_once() -> None:
    torch._dynamo.reset()
    one = subject("mixer", "megalodon").with_knobs(attention={"type": "softmax", "window": "chunk", "window_size": 5})
    model, words = one.build(), one.example_inputs()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    whole, _ = model(words)
    _, state = model(words[:, :4])
    state = reserve_state(model, state)
    outputs = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for word in words[:, 4:].split(1, dim=1):
            logits, state = compiled(word, state)
            outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, 1), whole[:, 4:], rtol=0, atol=1e-10)


def test_what_small_knobs_are_for_exists() -> None:
    for (kind, name), knobs in SMALL.items():
        assert set(knobs) <= set(find(kind, name).knobs)
