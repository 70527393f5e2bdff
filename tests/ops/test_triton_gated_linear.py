import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from archlab.ops import dispatch
from archlab.ops.gated_linear import gated_linear as plain
from archlab.ops.triton import gated_linear as module
from archlab.ops.triton.gated_linear import gated_linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
B, H = 1, 2
NAMES = ["q", "k", "v", "log_decay", "state"]
DECAYS = ["none", "head", "channel"]
SIZES = [(2, 3, 5), (63, 5, 20), (64, 20, 3), (65, 3, 5), (130, 5, 3), (20, 70, 5)]


def drawn(num_tokens, K, V, decay, strongest=50.0, dtype=torch.float64):
    """Return leaves with decays that are strong, weak and none, side by side."""
    torch.manual_seed(num_tokens)
    q, k, v, state = (
        torch.randn(shape, dtype=dtype, device=DEVICE)
        for shape in ((B, num_tokens, H, K), (B, num_tokens, H, K), (B, num_tokens, H, V), (B, H, K, V))
    )
    log_decay = (
        -strongest * torch.rand(B, num_tokens, H, K if decay == "channel" else 1, dtype=dtype, device=DEVICE) ** 4
    )
    log_decay = None if decay == "none" else log_decay.masked_fill(log_decay > -1e-3, 0)
    leaves = zip(NAMES, (q, k, v, log_decay, state), strict=True)
    return {name: x if x is None else x.requires_grad_() for name, x in leaves}


def gradients(outputs, inputs):
    """Return the gradients of the sum of the outputs, each weighted by the same random numbers."""
    torch.manual_seed(1)
    total = sum((x * torch.randn(x.shape, dtype=torch.float64, device=DEVICE)).sum() for x in outputs)
    return torch.autograd.grad(total, [x for x in inputs.values() if x is not None])


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_pytorch_implementation(size, decay):
    inputs = drawn(*size, decay)
    ours, theirs = gated_linear(*inputs.values()), plain(*inputs.values())
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("only", [0, 1])
def test_either_output_has_gradients_alone(only):
    inputs = drawn(20, 3, 5, "channel")
    ours, theirs = (
        torch.autograd.grad(form(*inputs.values())[only].sum(), (inputs["k"], inputs["v"], inputs["log_decay"]))
        for form in (gated_linear, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_programs_that_share_a_head_add_up(decay, monkeypatch):
    monkeypatch.setattr(module, "MAX_STATE", 16)
    inputs = drawn(40, 4, 10, decay)
    ours, theirs = gated_linear(*inputs.values()), plain(*inputs.values())
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_calls_cut_in_time_equal_one_call(decay):
    inputs = drawn(75, 4, 5, decay)
    whole = gated_linear(*inputs.values())
    *timed, state = inputs.values()
    outputs = []
    for start, stop in ((0, 1), (1, 68), (68, 75)):
        y, state = gated_linear(*(x if x is None else x[:, start:stop] for x in timed), state)
        outputs.append(y)
    pieces = torch.cat(outputs, 1), state
    torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(pieces, inputs), gradients(whole, inputs), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_a_state_can_be_wiped(decay):
    inputs = drawn(40, 4, 5, decay, strongest=1.0)
    wiped = inputs["log_decay"].detach().clone()
    wiped[:, 5] = -torch.inf
    inputs["log_decay"] = wiped.requires_grad_()
    y, last = gated_linear(*inputs.values())
    later = plain(*(x[:, 5:] for name, x in inputs.items() if name != "state"))
    torch.testing.assert_close((y[:, 5:], last), later, rtol=1e-10, atol=1e-10)
    found = gradients((y, last), inputs)
    assert all(x.isfinite().all() for x in found)
    assert not found[3][:, 5].any()


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_float32_is_close_to_float64(decay):
    inputs = drawn(150, 16, 8, decay)
    exact = plain(*inputs.values())
    single = {name: x if x is None else x.detach().float().requires_grad_() for name, x in inputs.items()}
    ours = gated_linear(*single.values())
    pairs = zip((*ours, *gradients(ours, single)), (*exact, *gradients(exact, inputs)), strict=True)
    for x, expected in pairs:
        assert x.dtype == torch.float32
        assert (x - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_the_decay_gradient_stays_exact_over_many_segments(decay):
    inputs = drawn(300, 2, 2, decay, strongest=0.02)
    exact = gradients(plain(*inputs.values()), inputs)[3]
    single = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    ours = gradients(gated_linear(*single.values()), single)[3]
    assert (ours - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_custom_op_compiles_without_a_graph_break(decay):
    inputs = drawn(20, 3, 5, decay)
    torch.library.opcheck(torch.ops.archlab.triton_gated_linear.default, tuple(inputs.values()))
    compiled = torch.compile(gated_linear, fullgraph=True, backend="aot_eager")
    ours, eager = compiled(*inputs.values()), gated_linear(*inputs.values())
    torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    torch.testing.assert_close(gradients(ours, inputs), gradients(eager, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bonus", [None, torch.full((H, 3), 0.3, dtype=torch.float64, device=DEVICE)])
def test_inference_uses_the_backend(bonus, monkeypatch):
    inputs, taken = list(drawn(20, 3, 5, "channel").values()), []
    exact = plain(*inputs, bonus_HK=bonus)
    monkeypatch.setattr(dispatch, "_BACKENDS", {})
    dispatch.register_backend("gated_linear", DEVICE, lambda *given: (taken.append(1), gated_linear(*given))[1])
    with torch.no_grad():
        torch.testing.assert_close(plain(*inputs, bonus_HK=bonus), exact, rtol=1e-10, atol=1e-10)
    assert taken == [1]
    plain(*inputs, bonus_HK=bonus)
    assert taken == [1]
