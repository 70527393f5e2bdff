"""The chunked scan agrees with the loop over steps in values and gradients, for dt of any size."""

import pytest
import torch
from torch import Tensor

from archlab.ops import selective_scan as module
from archlab.ops.native import selective_scan as native
from archlab.ops.native.library import unavailable_reason
from archlab.ops.selective_scan import CHUNK, selective_scan, selective_scan_reference

OPERATION = "selective_scan"
pytestmark = pytest.mark.usefixtures("backend")


def inputs(
    num_tokens: int, dtype: torch.dtype = torch.float64, largest_dt: float = 2.0, width: int = 3, num_states: int = 4
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x, state = draw(2, num_tokens, width), draw(2, width, num_states)
    in_, out = draw(2, num_tokens, num_states), draw(2, num_tokens, num_states)
    dt = largest_dt * torch.rand(2, num_tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    A = -torch.rand(width, num_states, generator=generator, dtype=torch.float64).to(dtype) * 5
    return [tensor.requires_grad_() for tensor in (x, dt, A, in_, out, state)]


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = [torch.randn_like(tensor) for tensor in expected]
    gradients = [
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(pair, weights, strict=True)), leaves)
        for pair in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 33, 300])
@pytest.mark.parametrize("largest_dt", [0.01, 2.0, 50.0])
def test_chunks_agree_with_the_loop(num_tokens: int, largest_dt: float) -> None:
    leaves = inputs(num_tokens, largest_dt=largest_dt)
    assert_same(selective_scan(*leaves), selective_scan_reference(*leaves), leaves)


@pytest.mark.parametrize("num_tokens", [3 * CHUNK + 1, 9 * CHUNK, 40 * CHUNK + 3])
def test_long_sequences_are_scanned_by_groups(num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 3)
    leaves = inputs(num_tokens, largest_dt=0.1)
    assert_same(selective_scan(*leaves), selective_scan_reference(*leaves), leaves)


@pytest.mark.parametrize("used", [0, 1])
def test_gradients_of_outputs_or_of_the_last_state_alone(used: int) -> None:
    leaves = inputs(35)
    gradients = [
        torch.autograd.grad(run(*leaves)[used].square().sum(), leaves, materialize_grads=True)
        for run in (selective_scan, selective_scan_reference)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_fewer_states_are_saved_than_steps() -> None:
    kept: dict[int, int] = {}
    leaves = inputs(10 * CHUNK, width=32, num_states=16)

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(*leaves)
    assert sum(kept.values()) < 2 * 10 * CHUNK * 32 * 16 / 2


@pytest.mark.slow
def test_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    leaves = inputs(35)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*leaves), selective_scan(*leaves), leaves)


@pytest.mark.parametrize("num_tokens", [1, 700])
def test_costs_can_be_counted_on_the_meta_device(num_tokens: int) -> None:
    y, state = selective_scan(*(leaf.detach().to("meta") for leaf in inputs(num_tokens)))
    assert (y.shape, state.shape) == ((2, num_tokens, 3), (2, 3, 4))


def test_continues_from_a_state() -> None:
    x, dt, A, in_, out, _ = inputs(41)
    whole, last = selective_scan(x, dt, A, in_, out)
    early, middle = selective_scan(x[:, :18], dt[:, :18], A, in_[:, :18], out[:, :18])
    late, end = selective_scan(x[:, 18:], dt[:, 18:], A, in_[:, 18:], out[:, 18:], middle)
    torch.testing.assert_close(torch.cat((early, late), 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-10)
    assert end.untyped_storage().nbytes() == end.numel() * end.element_size()


def relative(close: Tensor, exact: Tensor) -> float:
    return float((close.double() - exact).detach().norm() / exact.detach().norm())


@pytest.mark.slow
@pytest.mark.parametrize(("num_tokens", "width", "num_states"), [(1, 3, 4), (64, 8, 16), (65, 17, 3), (300, 40, 5)])
@pytest.mark.parametrize("largest_dt", [0.01, 2.0, 50.0])
def test_float32_agrees_with_the_definition_in_float64(
    num_tokens: int, width: int, num_states: int, largest_dt: float
) -> None:
    leaves = inputs(num_tokens, torch.float64, largest_dt, width, num_states)
    singles = [leaf.detach().float().requires_grad_() for leaf in leaves]
    exact, close = selective_scan_reference(*leaves), selective_scan(*singles)
    weights = [torch.randn_like(tensor) for tensor in exact]
    gradients = [
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(pair, weights, strict=True)), side)
        for pair, side in ((exact, leaves), (close, singles))
    ]
    assert all(relative(*pair) < 1e-5 for pair in zip(close, exact, strict=True))
    assert all(relative(*pair) < 2e-5 for pair in zip(gradients[1], gradients[0], strict=True))


def test_nan_and_infinity_propagate() -> None:
    x, dt, *rest = inputs(200, torch.float32)
    for spoilt in (x, dt):
        bad = torch.where((torch.arange(200) == 100)[:, None], float("nan"), spoilt)
        y, last = selective_scan(*((bad, dt) if spoilt is x else (x, bad)), *rest)
        assert y[:, :100].isfinite().all()
        assert y[:, 100:].isnan().all()
        assert last.isnan().all()


@pytest.mark.slow
def test_float32_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    leaves = inputs(35, torch.float32)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), selective_scan(*leaves))


def test_float32_is_close_and_half_precision_is_summed_in_it() -> None:
    exact, _ = selective_scan_reference(*inputs(300))
    close, _ = selective_scan(*inputs(300, torch.float32))
    torch.testing.assert_close(close.double(), exact, rtol=1e-4, atol=1e-4)
    halved, state = selective_scan(*inputs(300, torch.bfloat16))
    assert (halved.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.slow
def test_custom_op_is_registered_correctly() -> None:
    if not native.is_available():
        pytest.skip(f"no C++ backends: {unavailable_reason()}")
    leaves = inputs(70, torch.float32, width=native.LANES)  # with fewer, some of the saved memory is never written
    torch.library.opcheck(native._forward, leaves)
