import pytest
import torch

from archlab.ops.gated_linear import gated_linear

B, H, K, V = 2, 3, 4, 5


def drawn(num_tokens, width, strongest, bonus, dtype=torch.float64):
    """Return inputs whose decays are strong, weak and none, side by side."""
    torch.manual_seed(0)
    log_decay = None if width is None else -strongest * torch.rand(B, num_tokens, H, width, dtype=dtype) ** 4
    inputs = {
        "q_BTHK": torch.randn(B, num_tokens, H, K, dtype=dtype),
        "k_BTHK": torch.randn(B, num_tokens, H, K, dtype=dtype),
        "v_BTHV": torch.randn(B, num_tokens, H, V, dtype=dtype),
        "log_decay_BTHE": log_decay if log_decay is None else log_decay.masked_fill(log_decay > -1e-3, 0),
        "state_BHKV": torch.randn(B, H, K, V, dtype=dtype),
        "bonus_HK": torch.randn(H, K, dtype=dtype) if bonus else None,
    }
    return {name: x if x is None else x.requires_grad_() for name, x in inputs.items()}


def loop(q_BTHK, k_BTHK, v_BTHV, log_decay_BTHE, state_BHKV, bonus_HK):
    state, outputs = state_BHKV, []
    for t in range(q_BTHK.shape[1]):
        added = torch.einsum("bhk,bhv->bhkv", k_BTHK[:, t], v_BTHV[:, t])
        before, decay = state, 1.0 if log_decay_BTHE is None else log_decay_BTHE[:, t].exp()[..., None]
        state = decay * before + added
        seen = state if bonus_HK is None else before + torch.einsum("hk,bhkv->bhkv", bonus_HK, added)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_BTHK[:, t], seen))
    return torch.stack(outputs, 1), state


def assert_same(ours, theirs, leaves, rtol, atol):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    weights = [torch.randn_like(part) for part in theirs]
    gradients = [
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(both, weights, strict=True)), leaves)
        for both in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients, rtol=rtol, atol=atol)


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("width", [None, 1, K])
@pytest.mark.parametrize("strongest", [0.0, 0.1, 50.0])
@pytest.mark.parametrize("num_tokens", [1, 2, 13, 64, 131])
def test_agrees_with_a_loop(num_tokens, strongest, width, bonus):
    inputs = drawn(num_tokens, width, strongest, bonus)
    leaves = [x for x in inputs.values() if x is not None]
    assert_same(gated_linear(**inputs), loop(**inputs), leaves, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, 1, K])
def test_groups_of_chunks_agree_with_a_loop(width):
    inputs = drawn(64 * 17 + 3, width, 0.1, bonus=False)
    leaves = [x for x in inputs.values() if x is not None]
    assert_same(gated_linear(**inputs), loop(**inputs), leaves, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strongest", [0.1, 50.0])
@pytest.mark.parametrize("width", [1, K])
def test_float32_loses_nothing_to_strong_decays(width, strongest):
    inputs = drawn(131, width, strongest, bonus=True, dtype=torch.float32)
    wide = {name: x if x is None else x.double() for name, x in inputs.items()}
    for ours, exact in zip(gated_linear(**inputs), gated_linear(**wide), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, K])
def test_a_state_can_be_wiped(width):
    inputs = {name: x if x is None else x.detach() for name, x in drawn(70, width, 1.0, bonus=False).items()}
    inputs["log_decay_BTHE"][:, 5] = -torch.inf
    inputs["log_decay_BTHE"].requires_grad_()
    y, state = gated_linear(**inputs)
    later = {name: x[:, 5:] if name not in ("state_BHKV", "bonus_HK") else None for name, x in inputs.items()}
    torch.testing.assert_close((y[:, 5:], state), gated_linear(**later), rtol=1e-10, atol=1e-10)
    assert torch.autograd.grad(y.sum(), inputs["log_decay_BTHE"])[0].isfinite().all()


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("width", [None, 1, K])
def test_continues_from_a_state(width, bonus):
    inputs = drawn(75, width, 5.0, bonus)
    whole, last = gated_linear(**inputs)
    state, outputs = inputs["state_BHKV"], []
    for start, stop in ((0, 1), (1, 68), (68, 75)):
        timed = [inputs[name] for name in list(inputs)[:4]]
        pieces = [x if x is None else x[:, start:stop] for x in timed]
        y, state = gated_linear(*pieces, state, bonus_HK=inputs["bonus_HK"])
        outputs.append(y)
    torch.testing.assert_close((torch.cat(outputs, 1), state), (whole, last), rtol=1e-10, atol=1e-10)


def test_half_precision_is_rounded_at_the_ends():
    inputs = {name: x if x is None else x.bfloat16() for name, x in drawn(70, K, 5.0, bonus=True).items()}
    expected, wide = gated_linear(**{name: x if x is None else x.float() for name, x in inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        y, state = gated_linear(**inputs)
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(state, wide)
