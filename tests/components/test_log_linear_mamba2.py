"""Log-linear Mamba-2 beside Mamba-2, and how its state grows; its operation is tested in tests/ops."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces
from torch.nn import functional as F

from archlab.config.registry import find
from archlab.modeling.state import RESERVED

DIM, SIZES = 7, {"state_dim": 5, "head_dim": 2, "num_groups": 7, "num_levels": 5}


def build(**knobs):
    torch.manual_seed(0)
    layer = find("mixer", "log_linear_mamba2").cls(DIM, **(SIZES | knobs)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def convolved(layer, x):
    y = torch.cat([part(x) for part in (layer.x_proj, layer.B_proj, layer.C_proj)], -1)
    taps = layer.conv.weight
    seen = [sum(taps[-1 - j] * y[:, t - j] for j in range(min(len(taps), t + 1))) for t in range(x.shape[1])]
    return F.silu(torch.stack(seen, 1) + layer.conv.bias).split(layer.widths, -1)


def by_hand(layer, x):
    """Weigh every pair of tokens by their level, in a matrix for each head."""
    value, B, C = (part.unflatten(-1, (layer.num_heads, -1)) for part in convolved(layer, x))
    dt = F.softplus(layer.dt_proj(x) + layer.dt_bias)
    scales = F.softplus(layer.level_scale * layer.level_proj(x).unflatten(-1, (layer.num_heads, -1)))
    y = torch.zeros_like(value)
    for t in range(x.shape[1]):
        for s in range(t + 1):
            level = min((s ^ t).bit_length(), scales.shape[-1] - 1)
            decay = torch.exp(-dt[:, s + 1 : t + 1].sum(1) * layer.A_log.exp())
            weight = scales[:, t, :, level] * decay * dt[:, s] * (C[:, t] * B[:, s]).sum(-1)
            y[:, t] += weight[..., None] * value[:, s]
    gated = (y + layer.D[:, None] * value).flatten(-2) * F.silu(layer.z_proj(x))
    groups = gated.unflatten(-1, (layer.num_groups, -1))
    normed = groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + 1e-5)
    return layer.out_proj(normed.flatten(-2) * layer.scale)


@pytest.mark.parametrize("num_tokens", [1, 2, 21])
def test_agrees_with_all_pairs_of_tokens(num_tokens):
    layer, x = build(), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], by_hand(layer, x), [x, *layer.parameters()])


@torch.no_grad()
def test_is_mamba2_where_all_levels_count_alike():
    layer, x = build(eps=1e-30), inputs(70)
    sizes = {name: value for name, value in SIZES.items() if name != "num_levels"}
    other = find("mixer", "mamba2").cls(DIM, eps=1e-30, **sizes).double()
    # Each level counts softplus(0), which the norm divides by where there is nothing beside what is read.
    torch.nn.init.zeros_(layer.level_scale)
    torch.nn.init.zeros_(layer.D)
    other.load_state_dict({name: x for name, x in layer.state_dict().items() if not name.startswith("level")})
    torch.testing.assert_close(layer(x)[0], other(x)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("num_levels", [3, 5, 12])
def test_streams(num_levels):
    assert_one_stream(build(num_levels=num_levels), inputs(70).detach())


def test_a_state_grows_with_the_logarithm_of_what_was_read():
    layer = build(num_levels=12)
    for num_tokens in (1, 2, 3, 4, 63, 64, 100):
        states = layer(inputs(num_tokens).detach())[1]["states"]
        assert states.shape[1] == num_tokens.bit_length()
        filled = [place for place in range(states.shape[1]) if states[:, place].any()]
        assert filled == [place for place in range(states.shape[1]) if num_tokens >> place & 1]


def test_a_state_is_as_large_as_all_levels_at_most():
    layer = build(num_levels=4)
    assert layer(inputs(100).detach())[1]["states"].shape[1] == 3
    state = layer.reserve_state(layer.init_state(2), None)
    assert state["states"].shape[1] == 3
    assert RESERVED not in state


def test_refuses_what_no_room_was_reserved_for():
    layer, x = build(num_levels=12), inputs(9).detach()
    state = layer.reserve_state(layer.init_state(2), 7)
    assert state["states"].shape[1] == 3
    _, state = layer(x[:, :7], state)
    with pytest.raises(RuntimeError, match="exceeds the 7 tokens that room is reserved for"):
        layer(x[:, 7:8], state)


def test_more_room_than_needed_changes_nothing():
    layer, x = build(num_levels=12), inputs(40).detach()
    whole, _ = layer(x)
    for room in (40, 1000, None):
        state, outputs = layer.reserve_state(layer.init_state(2), room), []
        for piece in x.split([17, 1, 22], 1):
            y, state = layer(piece, state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-10, atol=1e-10)
    pieces, _ = in_pieces(layer, (x,), [1] * 40)
    torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-10)
