"""Multi-token prediction: DeepSeek-V3's equations position by position, and what is left of it after training."""

from dataclasses import replace

import pytest
import torch
from streams import assert_same_gradients
from torch.nn import functional as F

from archlab.components.head.multi_token import MultiTokenHead
from archlab.config.experiment import load
from archlab.config.parallel import Layout
from archlab.config.spec import parse
from archlab.errors import ConfigError
from archlab.interop.exporting.export import export
from archlab.interop.exporting.exported_model import read_model
from archlab.modeling import loss
from archlab.modeling.backbone import output_weights
from archlab.modeling.build import build
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.parallel.check_layout import require_fit
from archlab.storage.checkpoint import save_model
from archlab.training.step import TrainStep, check_experiment

V, D, T, DEPTH, WEIGHT = 19, 8, 9, 3, 0.6
LAYER = {"mixer": {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": 16}}}
HEAD = {"type": "multi_token", "depth": DEPTH, "weight": WEIGHT, "layer": {"type": "block", **LAYER}}
INNER = {
    "untied": "language_model",
    "tied": {"type": "language_model", "tied": True, "soft_cap": 3.0},
    "factored": {"type": "factored", "rank": 3},
}


def make(inner="language_model", **knobs):
    torch.manual_seed(0)
    head = HEAD | {"head": inner} | knobs
    tree = {"type": "stack", "vocab_size": V, "dim": D, "layers": [LAYER], "head": head}
    return build(parse(tree, "backbone", "model")).double()


def batch():
    torch.manual_seed(1)
    inputs, targets = torch.randint(V, (2, 2, T))
    targets[:, :-1] = inputs[:, 1:]
    targets[0, 4] = IGNORED
    return inputs, targets


def literal(model, inputs, targets):
    """Return the summed losses of every depth, each position by itself, from tokens t_1, ..., t_T+1."""
    h, losses = model.features(inputs)[0], []
    for k, module in enumerate(model.head.ahead, 1):
        joined = []
        for i in range(T - k):
            token = model.embedding(inputs[:, i + k, None])[:, 0]
            joined.append(module.projection(torch.cat((module.x_norm(h[:, i]), module.token_norm(token)), -1)))
        # Of a causal layer, the last output of every prefix.
        h = torch.stack([module.layer(torch.stack(joined[: i + 1], 1))[0][:, -1] for i in range(T - k)], 1)
        for i in range(T - k):
            logits, target = model.head.head(module.norm(h[:, i])), targets[:, i + k]
            losses.append(F.cross_entropy(logits, target, reduction="sum", ignore_index=IGNORED))
    return WEIGHT / DEPTH * torch.stack(losses).sum()


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_further_losses_are_those_of_each_position(inner):
    model, (inputs, targets) = make(inner), batch()
    total, further, state = loss.training_losses(model, inputs, targets)
    assert_same_gradients(further, literal(model, inputs, targets), list(model.parameters()))
    expected, last = loss.total_loss(model, inputs, targets)
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_few_logits_at_a_time_change_nothing(inner, monkeypatch):
    model, (inputs, targets) = make(inner), batch()
    whole = loss.training_losses(model, inputs, targets)[:2]
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 3 * V)
    torch.testing.assert_close(loss.training_losses(model, inputs, targets)[:2], whole, rtol=1e-12, atol=0)


def test_only_as_many_tokens_are_predicted_as_there_are():
    model, (inputs, targets) = make(), batch()
    pairs = list(model.head.further_targets(model.features(inputs[:, :3])[0], inputs[:, :3], targets[:, :3]))
    assert [tuple(x.shape) for x, _ in pairs] == [(2, 2, D), (2, 1, D)]
    assert not loss.training_losses(model, inputs[:, :1], targets[:, :1])[1]


def test_validation_is_that_of_the_next_token_alone():
    model, (inputs, targets) = make(), batch()
    plain = build(parse({**model.spec.to_plain(), "head": "language_model"}, "backbone", "model")).double()
    weights = {name.replace("head.head.", "head."): value for name, value in model.state_dict().items()}
    plain.load_state_dict({name: value for name, value in weights.items() if "ahead" not in name})
    for function in (loss.total_loss, loss.token_losses):
        assert torch.equal(function(model, inputs, targets)[0], function(plain, inputs, targets)[0])
    ((ours, _),) = loss.iter_logits(model, inputs, targets, metrics_are_per_token=True)
    assert torch.equal(ours, plain(inputs)[0])


def experiment(tiny, **train):
    base = tiny(
        "model.head={type: multi_token, depth: 2, layer: {type: block, mixer: {type: attention, num_heads: 2}}}"
    )
    return replace(base, train=replace(base.train, **train))


def test_an_update_reports_the_loss_of_the_next_token_and_trains_all(tiny):
    step = TrainStep(experiment(tiny, warmup=0))
    inputs, targets = step.task.batch("train", 0, 2, 32, step.train.seed)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    with torch.no_grad():
        step.model.train()
        torch.manual_seed(step.train.seed)
        expected = loss.total_loss(step.model.eval(), inputs, targets)[0] / targets.numel()
    assert step()["loss"] == pytest.approx(expected.item(), rel=0.05)  # with dropout
    assert all(not torch.equal(p, before[name]) for name, p in step.model.named_parameters())


def test_weights_of_an_adaptive_head_inside_are_the_model_s_output():
    head = HEAD | {"depth": 1, "head": {"type": "adaptive", "tied": True}}
    embedding = {"type": "adaptive", "cutoffs": [6], "factor": 2}
    tree = {"type": "stack", "vocab_size": V, "dim": D, "layers": [LAYER], "embedding": embedding, "head": head}
    model = build(parse(tree, "backbone", "model"))
    weights = output_weights(model)
    assert sum(len(weight) for weight in weights) >= V
    assert {id(weight) for weight in weights} == {id(weight) for weight in model.head.head.matrices}


def test_a_context_in_pieces_is_refused(tiny):
    made = experiment(tiny)
    with pytest.raises(ConfigError, match="its head predicts further tokens, of which another rank has some"):
        require_fit(made, build(made.model), Layout(chunk=2))


@pytest.mark.slow
def test_it_costs_what_it_computes(tiny):
    costs = {
        depth: check_experiment(
            tiny(f"model.head={{type: multi_token, depth: {depth}, layer: {{type: block, mixer: gla}}}}")
        )
        for depth in (1, 2)
    }
    plain = check_experiment(tiny())
    assert costs[1].params_non_embedding == plain.params_non_embedding
    assert costs[2].params - costs[1].params == costs[1].params - plain.params
    assert costs[2].flops_per_token > costs[1].flops_per_token > plain.flops_per_token


@pytest.mark.slow
def test_an_export_has_no_trace_of_it(tmp_path):
    yaml = f"base: llama2_tiny\nmodel: {{head: {{type: multi_token, layer: {HEAD['layer']}}}}}\n"
    (tmp_path / "it.yaml").write_text(f"name: it\n{yaml}".replace("'", ""))
    made = load(tmp_path / "it.yaml")
    model = build(made.model, "cpu", 0)
    save_model(tmp_path / "run" / "final", model, made.resolved, {})
    exported = read_model(tmp_path / "run")
    assert exported.experiment.model.knobs["head"].name == "language_model"
    assert not any("ahead" in name for name in exported.tensors)
    tokens = torch.randint(256, (1, 7))
    assert torch.equal(exported.load()(tokens)[0], model.eval()(tokens)[0])
    export(tmp_path / "run", tmp_path / "out", ["standalone"])
    assert "MultiToken" not in (tmp_path / "out" / "modeling_it.py").read_text()


def test_layers_of_several_streams_are_refused():
    with pytest.raises(ConfigError, match="several residual streams is none"):
        make(layer=LAYER | {"type": "block", "residual": "hyper"})
    with pytest.raises(ValueError, match="needs a vocab_size"):
        MultiTokenHead(D, None, torch.nn.Identity(), head=None, layer=None, norm=None)
