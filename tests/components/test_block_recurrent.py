import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find
from archlab.config.spec import parse

DIM, HEADS, K, BLOCK, STATES, EPS = 6, 2, 5, 4, 3, 1e-5
gates = pytest.mark.parametrize("gate", ["fixed", "lstm"])


def build(gate="fixed", window_size=3, **knobs):
    torch.manual_seed(0)
    attention = {"type": "softmax", "window": "sliding", "window_size": window_size}
    sizes = {"num_heads": HEADS, "head_dim": K, "block_size": BLOCK, "num_states": STATES}
    tree = {"type": "block_recurrent", "attention": attention, "gate": gate, **sizes, **knobs}
    layer = parse(tree, "mixer", "mixer").factory()(DIM).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return layer


def inputs(num_tokens, batch_size=2):
    torch.manual_seed(1)
    return torch.randn(batch_size, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def softmax(scores):
    weights = [score.exp() for score in scores]
    return [weight / sum(weights) for weight in weights]


def mean_of(query, keys, values, biases=None):
    """Return the values of a list [K] by the weights of their keys, biases added to the scores."""
    scores = [query @ key / K**0.5 for key in keys]
    scores = [score + bias for score, bias in zip(scores, biases, strict=True)] if biases else scores
    return sum(weight * value for weight, value in zip(softmax(scores), values, strict=True))


def per_head(linear, x):
    return linear.weight.mv(x).chunk(HEADS)


def gated(layer, kind, found, c):
    gate = layer.states.gate
    if kind == "fixed":
        share = 1 / (1 + (-gate.share).exp())
        return share * c + (1 - share) * (gate.out.weight.mv(found) + gate.out.bias)
    z, i, f = (gate.out.weight.mv(found) + gate.out.bias).chunk(3)
    return c / (1 + (-f - 1).exp()) + z.tanh() / (1 + (1 - i).exp())


def normed(layer, states):
    """Return rms-normalized states plus their ids."""
    scale = 1 + layer.states.norm.weight
    return [c / (c.square().mean() + EPS).sqrt() * scale + id for c, id in zip(states, layer.states.ids, strict=True)]


def next_states(layer, kind, states, keys, values):
    project, seen, after = layer.states.project, normed(layer, states), []
    own = [per_head(project.key, c) for c in seen], [per_head(project.value, c) for c in seen]
    for c, n in zip(states, seen, strict=True):
        found = [
            mean_of(per_head(query, n)[h], [k[h] for k in from_keys], [v[h] for v in from_values])
            for query, from_keys, from_values in ((project.query, *own), (project.cross_query, keys, values))
            for h in range(HEADS)
        ]
        after.append(gated(layer, kind, torch.cat(found), c))
    return after


def plain(layer, kind, window_size, x_TD):
    """The paper's equations, token by token and vector by vector."""
    states, keys, values, outputs = list(layer.states.first), [], [], []
    bias = layer.attention.position.weight
    for t, x in enumerate(x_TD):
        keys.append(per_head(layer.project.key, x))
        values.append(per_head(layer.project.value, x))
        window = range(max(0, t + 1 - window_size), t + 1)
        seen, found = normed(layer, states), []
        for h, query in enumerate(per_head(layer.project.query, x)):
            biases = [bias[h, t - s] for s in window]
            found.append(mean_of(query, [keys[s][h] for s in window], [values[s][h] for s in window], biases))
        for h, query in enumerate(per_head(layer.project.cross_query, x)):
            state_keys = [per_head(layer.states.project.key, c)[h] for c in seen]
            found.append(mean_of(query, state_keys, [per_head(layer.states.project.value, c)[h] for c in seen]))
        outputs.append(layer.out.weight.mv(torch.cat(found)))
        if (t + 1) % BLOCK == 0:
            states = next_states(layer, kind, states, keys[-BLOCK:], values[-BLOCK:])
    return torch.stack(outputs), torch.stack(states)


@gates
@pytest.mark.parametrize(("num_tokens", "window_size"), [(1, 3), (3, 4), (4, 4), (5, 6), (12, 4), (13, 3)])
def test_agrees_with_a_loop_over_tokens(gate, num_tokens, window_size):
    layer, x = build(gate, window_size), inputs(num_tokens)
    expected = torch.stack([torch.cat(plain(layer, gate, window_size, sample)) for sample in x])
    calls = [layer(x), layer(x, layer.init_state(2))]
    ours = torch.stack([torch.cat((y, state["states"]), 1) for y, state in calls])
    leaves = [x, *(layer.parameters() if num_tokens >= BLOCK else [])]
    assert_same_gradients(ours, torch.stack([expected, expected]), leaves)


@gates
@pytest.mark.parametrize("num_tokens", [5, 13])
def test_streams(gate, num_tokens):
    assert_one_stream(build(gate), inputs(num_tokens).detach())


@gates
@torch.no_grad()
def test_samples_may_stand_at_different_places_of_their_blocks(gate):
    layer, x = build(gate), inputs(9, batch_size=1)
    pasts = [2, 3, 7, 8]
    states = [layer.reserve_state(layer(inputs(past, batch_size=1), None)[1], None) for past in pasts]
    together, after = layer(
        x.expand(len(pasts), -1, -1), {key: torch.cat([s[key] for s in states]) for key in states[0]}
    )
    for row, state in enumerate(states):
        alone, alone_after = layer(x, state)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close({k: v[row : row + 1] for k, v in after.items()}, alone_after, rtol=1e-10, atol=1e-10)


def test_tokens_see_what_finished_blocks_left_and_nothing_of_their_own():
    """Beyond the window an input is seen through the states: from the end of its block on, and not before."""
    layer, x = build(window_size=1), inputs(12, batch_size=1)
    y, _ = layer(x)
    for t in range(12):
        moved = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)[0][0].any(-1).nonzero().flatten().tolist()
        assert moved == [*range(t // BLOCK * BLOCK), t]


def test_a_stream_that_begins_in_the_middle_of_a_block_carries_gradients():
    layer, x = build(), inputs(9)
    first, state = layer(x[:, :6])
    second, _ = layer(x[:, 6:], state)
    cut = torch.autograd.grad(torch.cat((first, second), 1).square().sum(), x)
    whole = torch.autograd.grad(layer(x)[0].square().sum(), x)
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)


def test_states_keep_float32_in_a_model_of_bfloat16():
    layer = build().to(torch.bfloat16)
    y, state = layer(inputs(9).bfloat16())
    y, state = layer(inputs(2).bfloat16(), state)
    assert y.dtype == torch.bfloat16
    assert state["states"].dtype == torch.float32


def test_refuses_what_does_not_fit():
    mixer = find("mixer", "block_recurrent").cls
    with pytest.raises(ValueError, match="dim 6 is not divisible by num_heads 4"):
        mixer(DIM)
    with pytest.raises(ValueError, match="TimestepNorm works over time"):
        mixer(8, norm=lambda dim: find("norm", "timestep").cls(dim, num_groups=4))
