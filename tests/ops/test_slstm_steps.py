import pytest
import torch
from conftest import needs_compiler
from streams import assert_same_gradients

from archlab.ops import dispatch, native
from archlab.ops.slstm import SLSTMState, init_slstm_state, slstm, slstm_backends, slstm_reference

SIZES = [(1, 1, 3), (2, 3, 5), (9, 2, 4), (23, 1, 17), (12, 3, 1)]
BACKENDS = {"loop": slstm_backends()["slstm", "cpu"], "native": native.slstm.slstm}


@pytest.fixture(autouse=True, params=["loop", pytest.param("native", marks=needs_compiler)])
def backend(request, monkeypatch):
    """Run every test with the loop of PyTorch's operations, and with the C++ one."""
    monkeypatch.setattr(dispatch, "_BACKENDS", {("slstm", "cpu"): BACKENDS[request.param]})
    return {"loop": torch.ops.archlab.slstm_loop, "native": torch.ops.archlab.slstm}[request.param].default


def draw(num_tokens, num_heads, width, dtype=torch.float64, carried=True):
    torch.manual_seed(num_tokens)
    gates = torch.randn(2, num_tokens, 4, num_heads, width, dtype=dtype) * 2
    recurrent = torch.randn(4, num_heads, width, width, dtype=dtype)
    empty = init_slstm_state(gates[:, 0, 0])
    if not carried:
        return gates.requires_grad_(), recurrent.requires_grad_(), empty
    h, cell, peak = (torch.randn_like(empty.h) for _ in range(3))
    state = SLSTMState(h, cell, torch.rand_like(h) + 1, peak)
    return gates.requires_grad_(), recurrent.requires_grad_(), SLSTMState(*(x.requires_grad_() for x in state))


def together(y, state):
    return torch.cat([y.flatten(), *(part.flatten() for part in state[:3])])


def unstabilized(gates, recurrent, exponential):
    """Return the outputs of the paper's equations 8 to 14, without the peaks."""
    h, cell, normalizer, outputs = 0.0, 0.0, 0.0, []
    for t in range(gates.shape[1]):
        raw = gates[:, t]
        if t:
            raw = raw + torch.stack(
                [torch.stack([h[:, n] @ recurrent[g, n] for n in range(h.shape[1])], 1) for g in range(4)], 1
            )
        i, f, z, o = raw.unbind(1)
        f = f.exp() if exponential else f.sigmoid()
        cell, normalizer = f * cell + i.exp() * z.tanh(), f * normalizer + i.exp()
        h = o.sigmoid() * cell / normalizer
        outputs.append(h)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_papers_equations_and_so_do_its_gradients(size, exponential):
    gates, recurrent, empty = draw(*size, carried=False)
    y, _ = slstm(gates, recurrent, empty, exponential=exponential)
    expected = unstabilized(gates, recurrent, exponential)
    leaves = [gates, recurrent] if size[0] > 1 else [gates]
    assert_same_gradients(y, expected, leaves)


@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_reference_from_any_state(size, exponential):
    gates, recurrent, state = draw(*size)
    ours = together(*slstm(gates, recurrent, state, exponential=exponential))
    expected = together(*slstm_reference(gates, recurrent, state, exponential))
    assert_same_gradients(ours, expected, [gates, recurrent, *state[:3]])


def test_calls_cut_in_time_equal_one_call_and_its_gradients():
    gates, recurrent, state = draw(23, 3, 5)
    whole, last, outputs = *slstm(gates, recurrent, state), []
    now = state
    for piece in gates.split([1, 9, 13], dim=1):
        y, now = slstm(piece, recurrent, now)
        outputs.append(y)
    torch.testing.assert_close(now, last, rtol=1e-12, atol=1e-12)
    ours = together(torch.cat(outputs, 1), now)
    assert_same_gradients(ours, together(whole, last), [gates, recurrent, *state[:3]])


@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_gates_of_any_size_are_finite(level):
    gates, recurrent, empty = draw(9, 2, 4, torch.float32, carried=False)
    gates = (gates.detach() + level * torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None]).requires_grad_()
    y, _ = slstm(gates, recurrent, empty, exponential=True)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), [gates, recurrent]))


def test_float32_is_near_float64_and_half_precision_is_rounded_once():
    gates, recurrent, state = (x.detach() if isinstance(x, torch.Tensor) else x for x in draw(23, 3, 5))
    recurrent = recurrent * 0.3  # larger ones make the recurrence chaotic
    exact, _ = slstm(gates, recurrent, state)
    single, _ = slstm(gates.float(), recurrent.float(), SLSTMState(*(x.float() for x in state)))
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)
    half = gates.bfloat16()
    y, last = slstm(half, recurrent.float(), SLSTMState(*(x.float() for x in state)))
    assert (y.dtype, last.cell.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    gates, recurrent, state = draw(9, 2, 4)
    compiled = torch.compile(slstm, fullgraph=True, backend="aot_eager")
    ours, expected = (together(*form(gates, recurrent, state)) for form in (compiled, slstm))
    assert_same_gradients(ours, expected, [gates, recurrent, *state[:3]])


@pytest.mark.slow
def test_custom_ops_are_registered_correctly(backend):
    gates, recurrent, state = draw(5, 2, 3)
    torch.library.opcheck(backend, (gates, recurrent, *state, False))
