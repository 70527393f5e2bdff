import pytest
import torch
from streams import assert_same_gradients, in_pieces

from archlab import ConfigError, Recurrent, max_context
from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.modeling.activation_checkpointing import apply_activation_checkpointing
from archlab.modeling.backbone import iter_blocks
from archlab.modeling.build import build as build_spec

VOCAB, LOCAL, PATCH, HELD = 17, 8, 4, 20
FFN = {"type": "mlp", "hidden_dim": 8}
ATTENTION = {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": HELD}}
SLIDING = {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window": "sliding", "window_size": 2}}
AHEAD = {"type": "attention", "num_heads": 2, "attention": "bidirectional"}
MIXERS = {
    "ahead": AHEAD,
    "attention": ATTENTION,
    "sliding": SLIDING,
    "mega": {"type": "mega", "attention": ATTENTION["attention"]},
}
VARIANTS = {
    "plain": {},
    "one byte a patch": {"patch_size": 1},
    "sliding": {"mixer": "sliding"},
    "remembering": {"mixer": "mega", "norm": {"type": "timestep", "num_groups": 2}},
    "placed": {"position": "sinusoidal", "patch_size": 3},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def build(mixer="attention", patch_size=PATCH, **knobs):
    layer = {"mixer": MIXERS[mixer], "ffn": FFN}
    sizes = {"vocab_size": VOCAB, "dim": 4 * patch_size, "local_dim": LOCAL, "patch_size": patch_size}
    tree = {"type": "megabyte", **sizes, "layers": [layer], "local_layers": [layer | {"repeat": 2}], **knobs}
    model = build_spec(parse(tree, "backbone", "model")).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def text(num_bytes, batch_size=2):
    return torch.randint(VOCAB, (batch_size, num_bytes), generator=torch.Generator().manual_seed(1))


def test_the_head_maps_features_to_logits_so_that_a_loss_may_be_chunked():
    model, bytes_BT = build(), text(11)
    x_BTL, state = model.features(bytes_BT)
    logits_BTV, same = model(bytes_BT)
    assert torch.equal(model.head(x_BTL), logits_BTV)
    assert state.keys() == same.keys()
    torch.testing.assert_close(x_BTL @ model.head.matrix.T, logits_BTV)


def plain(model, sample_T):
    """Byte by byte: the global layers over the complete patches before it, the local layers over its own patch."""
    size, scores = model.patch_size, []
    steps_1T = torch.arange(len(sample_T))[None]
    bytes_TE = model.position.embed(model.global_embedding(sample_T[None]), steps_1T)[0]
    for t in range(len(sample_T)):
        begin, said_D = t // size * size, model.first
        if begin:
            patches = torch.stack([torch.cat(list(bytes_TE[k : k + size])) for k in range(0, begin, size)])
            said_D = model.global_layers(patches[None])[0][0, -1]
        pieces = said_D.chunk(size)[: t - begin + 1]
        x_PL = torch.stack([model.down.weight.mv(piece) for piece in pieces]) + model.embedding(sample_T[begin : t + 1])
        scores.append(model.head(model.local_layers(x_PL[None])[0][0, -1]))
    return torch.stack(scores)


@every_variant
@pytest.mark.parametrize("num_bytes", [1, 4, 7, 13])
def test_agrees_with_one_forward_for_every_byte(variant, num_bytes):
    model, given = build(**variant), text(num_bytes)
    expected = torch.stack([plain(model, sample) for sample in given])
    ours = torch.stack([model(given)[0], model(given, model.init_state(2))[0]])
    used = [p for name, p in model.named_parameters() if num_bytes > 2 * PATCH or not name.startswith("global")]
    assert_same_gradients(ours, torch.stack([expected, expected]), used)


@every_variant
@torch.no_grad()
def test_calls_of_any_size_equal_one_call(variant):
    model, given = build(**variant), text(13)
    whole, last = model(given)
    for sizes in ([1] * 13, [3, 9, 1], [4, 8, 1], [1, 12], [5, 5, 3]):
        cut, state = in_pieces(model, (given,), sizes)
        torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-10)
        # A call makes room for a patch that it may complete in some samples, so that many calls make more.
        with_room = [model.reserve_state(x, None) for x in (state, last)]
        torch.testing.assert_close(*with_room, rtol=1e-10, atol=1e-10)


@every_variant
@torch.no_grad()
def test_each_byte_moves_its_own_score_and_later_ones_only(variant):
    model, given = build(**variant), text(13)
    before, _ = model(given)
    for t in range(13):
        changed = given.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        moved = (model(changed)[0] - before).abs().amax((0, 2)) > 1e-12
        assert not moved[:t].any()
        assert moved[t]
        assert "sliding" in str(variant) or moved[t:].all()


@every_variant
@pytest.mark.parametrize("num_bytes", [1, 2, 9])
@torch.no_grad()
def test_samples_may_stand_at_different_places_of_their_patches(variant, num_bytes):
    model, given = build(**variant), text(num_bytes, batch_size=1)
    states = [model.reserve_state(model(text(past, batch_size=1))[1], None) for past in (3, 4, 6, 9)]
    together = {key: torch.cat([state[key] for state in states]) for key in states[0]}
    scores, after = model(given.expand(4, -1), together)
    for row, state in enumerate(states):
        alone, alone_after = model(given, state)
        torch.testing.assert_close(scores[row : row + 1], alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close({k: v[row : row + 1] for k, v in after.items()}, alone_after, rtol=1e-10, atol=1e-10)


def test_gradients_flow_through_calls():
    model, given = build(), text(13)
    whole = torch.autograd.grad(model(given)[0].square().sum(), list(model.parameters()))
    cut = torch.autograd.grad(in_pieces(model, (given,), [3, 6, 4])[0].square().sum(), list(model.parameters()))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_stream_is_as_long_as_the_patches_that_the_global_layers_hold():
    model = build()
    assert max_context(model) == HELD * PATCH
    assert max_context(build("sliding")) is None
    given = text(HELD * PATCH + 1)
    _, state = model(given[:, :-3])
    scores, state = model(given[:, -3:-1], state)
    torch.testing.assert_close(scores, model(given[:, :-1])[0][:, -2:], rtol=1e-10, atol=1e-10)
    with pytest.raises(RuntimeError, match="exceeds the window_size 20"):
        model(given[:, -1:], state)


def test_checkpointing_reaches_the_layers_of_both_models():
    model, given = build(), text(13)
    assert len(list(iter_blocks(model))) == 3
    before = torch.autograd.grad(model(given)[0].square().sum(), list(model.parameters()))
    apply_activation_checkpointing(model, True)
    after = torch.autograd.grad(model(given)[0].square().sum(), list(model.parameters()))
    torch.testing.assert_close(after, before)


def test_a_tied_head_compares_with_the_local_embedding():
    model = build(head={"type": "language_model", "tied": True})
    assert model(text(5))[0].shape == (2, 5, VOCAB)
    assert "head.weight" not in dict(model.named_parameters())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"dim": 18}, "dim 18 is not divisible by patch_size 4"),
        ({"patch_size": 32, "dim": 64}, r"local layers see 20 bytes \(window_size\), not the patch_size 32"),
        ({"mixer": "ahead"}, "BidirectionalAttention sees later bytes"),
    ],
)
def test_refuses_what_does_not_fit(knobs, message):
    with pytest.raises(ConfigError, match=message):
        build(**{"patch_size": PATCH} | knobs)


def test_refuses_local_layers_with_a_loss_that_would_be_forgotten():
    class Losing(Recurrent):
        def init_state(self, batch_size):
            return {"auxiliary_loss": torch.zeros(batch_size)}

    megabyte = find("backbone", "megabyte").cls
    with pytest.raises(ValueError, match="no state to sum an auxiliary loss or counts in"):
        megabyte(vocab_size=VOCAB, dim=8, local_dim=LOCAL, layers=[], local_layers=[lambda dim, index: Losing()])
