"""Layers that are run in loops with the same weights, against as many layers with weights of their own."""

import pytest
import torch
from streams import assert_one_stream, assert_recomputing_changes_nothing

from archlab.config.experiment import load
from archlab.config.spec import parse
from archlab.errors import ConfigError
from archlab.modeling import block_memory, step_trace
from archlab.modeling.build import build as build_spec
from archlab.modeling.build import build_on_meta, validate
from archlab.modeling.compile import compile_model
from archlab.modeling.state import update_sums
from archlab.planning.fewer_layers import by_few_layers

ATTENTION = {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window": "sliding"}}
ATTENTION["attention"]["window_size"] = 4
MIXERS = {
    "attention": ATTENTION,
    "value_residual": ATTENTION | {"value_residual": True},
    "rwkv4": {"type": "rwkv4"},
    "timestep": {"type": "hgrn2", "num_heads": 2},
}
FFNS = {"timestep": {"type": "moe", "num_experts": 3, "hidden_dim": 6, "top_k": 2}}
every_mixer = pytest.mark.parametrize("name", MIXERS)
# The layers that are run, one after the other: a prelude, two in three loops, and a coda.
LOOPED, ORDER = {"loops": 3, "prelude": 1, "coda": 1}, [0, 1, 2, 1, 2, 1, 2, 3]


def build(name, num_layers=4, **knobs):
    norm = {"type": "timestep", "num_groups": 3} if name == "timestep" else "rms"
    layer = {"mixer": MIXERS[name], "ffn": FFNS.get(name, {"type": "mlp", "hidden_dim": 10}), "norm": norm}
    sizes = {"type": "stack", "vocab_size": 11, "dim": 12, "layers": [layer | {"repeat": num_layers}]}
    model = build_spec(parse(sizes | knobs, "backbone", "model"), "cpu", 0).double().eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return model


def tokens(num_tokens=9):
    return torch.randint(11, (2, num_tokens), generator=torch.Generator().manual_seed(1))


def unrolled(model, name):
    """Return as many layers as are run, with copies of the weights, and the name of each copy's original."""
    deep = build(name, len(ORDER))
    origin = {}
    for key, _ in deep.named_parameters():
        part = key.split(".")
        origin[key] = ".".join(["blocks", str(ORDER[int(part[1])]), *part[2:]]) if part[0] == "blocks" else key
    return deep, origin


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "value_residual"])
def test_loops_are_layers_with_the_same_weights(name):
    model = build(name, **LOOPED)
    deep, origin = unrolled(model, name)
    own = dict(model.named_parameters())
    for key, parameter in deep.named_parameters():
        parameter.data.copy_(own[origin[key]])
    y, expected = model(tokens())[0], deep(tokens())[0]
    assert torch.equal(y, expected)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for key, parameter in own.items():
        copies = [each.grad for copy, each in deep.named_parameters() if origin[copy] == key]
        torch.testing.assert_close(parameter.grad, sum(copies), rtol=1e-10, atol=1e-10)


def test_the_values_of_the_first_call_are_those_that_all_others_receive():
    model = build("value_residual", loops=2)
    x, first, ids = model.embedding(tokens()), None, tokens()
    for block in [*model.blocks] * 2:
        h, mixer = block.norm(x), block.mixer
        v = mixer.value(h)
        if mixer.value_residual.mix is None:
            first = v if first is None else first
        else:
            own, other = mixer.value_residual.mix.weights
            v = own * v + other * first
        q, k = (part(h).unflatten(-1, (2, 6)) for part in (mixer.query, mixer.key))
        y, _ = mixer.attention(q, k, v.unflatten(-1, (2, 6)))
        x = x + mixer.out(y.flatten(-2))
        x = x + block.ffn(block.ffn_norm(x))
    torch.testing.assert_close(model(ids)[0], model.head(model.norm(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@every_mixer
def test_streams_have_a_state_for_each_call(name):
    model = build(name, **LOOPED)
    assert_one_stream(model, tokens())
    names = {key.split(".")[1] for key in model.init_state(2) if key.startswith("blocks.")}
    assert names == {"0", "1", "2", "3", "1@1", "2@1", "1@2", "2@2"}
    assert model(tokens())[1].keys() == model.init_state(2).keys()


def test_what_a_layer_counts_is_that_of_all_its_calls():
    model = build("timestep", **LOOPED)
    sums = update_sums(model(tokens())[1])
    assert {path: int(counted.sum()) for path, counted in sums.items()} == {
        f"blocks.{index}.ffn": 2 * tokens().numel() * ORDER.count(index) for index in range(4)
    }
    for path, counted in sums.items():
        model.get_submodule(path).finish_update(counted)


@pytest.mark.slow
@every_mixer
@pytest.mark.parametrize("kind", [True, "selective"])
def test_recomputed_loops_have_the_same_gradients(name, kind):
    assert_recomputing_changes_nothing(lambda: build(name, **LOOPED), tokens(), [4, 5], kind)


@pytest.mark.slow
# torch's own, about the input of a block, which is not a leaf (torch 2.13).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("policy", ["block", "model"])
def test_compiles_without_a_break(policy):
    model = build("value_residual", **LOOPED | {"loops": 2})  # a third one would only add to what is compiled
    expected = model(tokens())
    torch.compiler.reset()
    compile_model(model, policy, backend="aot_eager")
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-12, atol=1e-12)


def test_a_loop_without_layers_is_refused():
    with pytest.raises(ConfigError, match="no layer is left to loop: prelude 1 and coda 3 are all of 4 layers"):
        build("attention", loops=2, prelude=1, coda=3)
    assert len(build("attention", loops=2, prelude=1, coda=2).calls) == 5


SMALL = ["train.context=64", "train.batch_size=2"]
COUNTED = {
    "loops": (["model.loops=3"], 12),
    "ends": (["model.loops=3", "model.prelude=1", "model.coda=1"], 8),
    "prelude": (["model.loops=2", "model.prelude=3", "model.layers[0].repeat=5"], 7),
    "recomputed": (["model.loops=2", "train.checkpoint_activations=true"], 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COUNTED)
def test_costs_are_those_of_the_calls_and_weights_those_of_the_layers(case):
    overrides, num_calls = COUNTED[case]
    looped = step_trace.trace_step(load("llama2_tiny", [*SMALL, *overrides]))
    recomputed = [each for each in overrides if each.startswith("train.")]
    deep = step_trace.trace_step(load("llama2_tiny", [*SMALL, *recomputed, f"model.layers[0].repeat={num_calls}"]))
    for figure in ("flops_per_token", "flops_per_token_forward", "state_bytes", "max_state_bytes", "activation_bytes"):
        assert getattr(looped, figure) == getattr(deep, figure), figure
    assert looped.called_bytes == deep.weight_bytes > looped.weight_bytes


@pytest.mark.slow
@pytest.mark.parametrize("case", COUNTED)
def test_skipping_blocks_changes_no_figure(case, monkeypatch):
    experiment = load("llama2_tiny", [*SMALL, *COUNTED[case][0]])

    def traces():
        model = validate(experiment)
        return step_trace.trace_step(experiment, model), block_memory.trace_memory(experiment, model)

    skipping = traces()
    for module in (step_trace, block_memory):
        monkeypatch.setattr(module, "skip_repeated_blocks", _skip_none)
    executed = traces()
    assert skipping == executed
    assert len(executed[1].blocks) == COUNTED[case][1]
    assert executed[1].block_bytes + executed[1].end_bytes == executed[0].weight_bytes


class _skip_none:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return []

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("ends", [1, 2])
def test_plans_of_deep_models_are_made_from_fewer_layers_where_there_are_loops_in_these(ends):
    built = []

    def measure(experiment):
        model = build_on_meta(experiment.model)
        built.append(len(model.blocks))
        return [len(model.calls), sum(parameter.numel() for parameter in model.parameters())]

    overrides = ["model.loops=3", f"model.prelude={ends}", f"model.coda={ends}", "model.layers[0].repeat=9"]
    experiment = load("llama2_tiny", overrides)
    assert by_few_layers(experiment, measure) == measure(experiment)
    assert built == ([3, 4, 9] if ends == 1 else [9, 9])


def test_a_shared_layer_is_one_set_of_parameters():
    spec = load("llama2_tiny", ["model.loops=12", "model.layers[0].repeat=1"]).model
    looped, single = build_on_meta(spec), build_on_meta(load("llama2_tiny", ["model.layers[0].repeat=1"]).model)
    assert [(n, p.shape) for n, p in looped.named_parameters()] == [(n, p.shape) for n, p in single.named_parameters()]
