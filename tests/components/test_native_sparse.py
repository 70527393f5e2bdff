"""Native sparse attention as a loop over tokens, heads and blocks, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab import ArchlabError
from archlab.config.spec import parse
from archlab.ops import visited_blocks
from archlab.ops.dispatch import reference_only, use_backends

D, H, G, K, LENGTH, SELECTED, SLIDING, NUM_TOKENS = 15, 6, 3, 4, 3, 4, 5, 23


def build(**knobs):
    torch.manual_seed(0)
    sizes = {"num_heads": H, "num_kv_heads": G, "head_dim": K, "block_size": LENGTH, "num_selected": SELECTED}
    sizes |= {"sliding_size": SLIDING, "window_size": 24, "position": "none"}
    mixer = parse({"type": "native_sparse", **sizes, **knobs}, "mixer", "mixer").factory()(D).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def inputs(num_tokens=NUM_TOKENS):
    return torch.randn(2, num_tokens, D, dtype=torch.float64, requires_grad=True)


def average(scores, values):
    """Return the softmax average [V] of values by their scores, zeros without any."""
    if not scores:
        return torch.zeros(K, dtype=torch.float64)
    weights = torch.stack(scores).exp()
    return (weights[:, None] * torch.stack(values)).sum(0) / weights.sum()


def selected_blocks(t, importance, oldest):
    """Return the first block, the query's own and the one before, and then the most important of the others."""
    own = t // LENGTH
    fixed = {block for block in (0, own - 1, own) if block >= oldest}
    others = sorted((-value, block) for block, value in importance.items() if block not in fixed)
    return fixed | {block for _, block in others[: SELECTED - len(fixed)]}


def row_by_loops(mixer, x):
    q, k, v = mixer.query(x).view(-1, H, K), mixer.key(x).view(-1, G, K), mixer.value(x).view(-1, G, K)
    position, gates, rows = mixer.attention.position, mixer.branch_gate(x).sigmoid().view(-1, H, 3), []
    turn = lambda part, t: position.rotate(part[None, None, None], torch.tensor([[t]]))[0, 0, 0]  # noqa: E731
    q, k = (torch.stack([torch.stack([turn(h, t) for h in part[t]]) for t in range(len(x))]) for part in (q, k))

    def bias(t, s, h):
        found = position.bias(torch.tensor([[t]]), torch.tensor([[s]]))
        return 0 if found is None else found[0, h, 0, 0]

    for t in range(len(x)):
        oldest = max(0, t // LENGTH + 1 - mixer.attention.window_size // LENGTH)
        complete, kept = range(oldest, (t + 1) // LENGTH), range(oldest * LENGTH, t + 1)
        outputs = [torch.zeros(0)] * H
        for g in range(G):
            heads = range(g * H // G, (g + 1) * H // G)
            k_mean, v_mean = ([part[:, g].split(LENGTH)[n].mean(0) for n in complete] for part in (k, v))
            scores = {h: [(q[t, h] * mean).sum() * K**-0.5 for mean in k_mean] for h in heads}
            weights = {h: torch.stack(scores[h]).softmax(0).detach() for h in heads} if complete else {}
            importance = {n: float(sum(weights[h][n - oldest] for h in heads)) for n in complete}
            blocks = selected_blocks(t, importance, oldest)
            for h in heads:
                of_tokens = {s: (q[t, h] * k[s, g]).sum() * K**-0.5 + bias(t, s, h) for s in kept}
                chosen = [s for s in kept if s // LENGTH in blocks]
                latest = [s for s in kept if t - s < SLIDING]
                read = [([of_tokens[s] for s in seen], [v[s, g] for s in seen]) for seen in (chosen, latest)]
                parts = [average(*each) for each in ((scores[h], v_mean), *read)]
                outputs[h] = sum(gate * part for gate, part in zip(gates[t, h], parts, strict=True))
        rows.append(torch.cat(outputs))
    return mixer.out(torch.stack(rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs", [{}, {"position": "rope"}, {"position": "alibi"}, {"window_size": 12}, {"window_size": 3}], ids=str
)
def test_agrees_with_a_loop_in_one_call_and_in_several(knobs):
    mixer, x = build(**knobs), inputs()
    expected = torch.stack([row_by_loops(mixer, row) for row in x])
    ours = [mixer(x)[0], *(in_pieces(mixer, (x,), sizes)[0] for sizes in ([1] * NUM_TOKENS, [5, 1, 11, 6]))]
    assert_same_gradients(torch.stack(ours), torch.stack([expected] * 3), [x, *mixer.parameters()])


@pytest.mark.parametrize("window_size", [24, 12, 3])
def test_streams(window_size):
    assert_one_stream(build(window_size=window_size), inputs().detach())


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [{}, {"position": "rope", "window_size": 42}, {"num_selected": 9}], ids=str)
def test_reading_selected_blocks_alone_changes_nothing(knobs, monkeypatch):
    for limit in ("MIN_SPARSITY", "MIN_QUERIES"):
        monkeypatch.setattr(visited_blocks, limit, 0)
    mixer, x = build(**{"window_size": 72} | knobs), inputs(71)
    with reference_only():
        expected = mixer(x)[0]
    with use_backends(visited_blocks.block_backends()):
        ours = [mixer(x)[0], *(in_pieces(mixer, (x,), sizes)[0] for sizes in ([40, 31], [5, 1, 38, 27]))]
    assert_same_gradients(torch.stack(ours), torch.stack([expected] * 3), [x, *mixer.parameters()])


@torch.no_grad()
def test_keys_outside_of_the_selected_blocks_are_seen_in_their_means_alone():
    mixer, x = build(num_selected=3), inputs(24)
    _, state = mixer(x[:, :21])  # 3 selected: the first, the query's own and the one before it
    moved = {name: tensor.clone() for name, tensor in state.items()}
    keys, values = moved["attention.keys"], moved["attention.values"]
    for part in (keys, values):
        part[:, 6:9] = part[:, 6:9].flip(1)  # within one block, whose mean stays
    torch.testing.assert_close(mixer(x[:, 21:], moved)[0], mixer(x[:, 21:], state)[0])
    values[:, 6] += 1
    assert not torch.isclose(mixer(x[:, 21:], moved)[0], mixer(x[:, 21:], state)[0]).any()


@torch.no_grad()
def test_with_room_for_all_blocks_or_keys_a_branch_is_full_attention():
    layer = build(num_selected=8, sliding_size=24).attention
    sizes = {"num_heads": H, "num_kv_heads": G, "head_dim": K, "position": "none"}
    plain = parse({"type": "attention", **sizes}, "mixer", "mixer").factory()(D).attention
    q, k, v = (torch.randn(2, NUM_TOKENS, heads, K, dtype=torch.float64) for heads in (H, G, G))
    expected, _ = plain(q, k, v)
    for branch in (1, 2):
        gates = torch.zeros(2, NUM_TOKENS, H, 3, dtype=torch.float64)
        gates[..., branch] = 1
        torch.testing.assert_close(layer(q, k, v, gates)[0], expected)


def test_less_than_three_blocks_are_refused():
    with pytest.raises(ArchlabError, match="num_selected 2 is less than the first block and the 2 latest"):
        build(num_selected=2)


def test_a_window_is_whole_blocks():
    with pytest.raises(ArchlabError, match="window_size 25 is not divisible by block_size 3"):
        build(window_size=25)
