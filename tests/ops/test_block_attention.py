"""Attention to blocks of keys, computed block by block as on a CPU, against all pairs under a mask."""

import pytest
import torch
from streams import assert_same_gradients
from torch import Tensor

from archlab.modeling.step_recorder import StepRecorder
from archlab.ops import visited_blocks
from archlab.ops.block_attention import block_attention, block_attention_reference
from archlab.ops.dispatch import use_backends

# B, H, G, T, S, J, block size, K, V: one query; as many keys as queries; more keys; a last block that is not whole.
SHAPES = [(1, 1, 1, 1, 1, 1, 1, 1, 1), (2, 6, 3, 23, 23, 3, 4, 5, 7), (2, 2, 1, 17, 45, 4, 3, 8, 8)]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visited_blocks, "MIN_SPARSITY", 0)
    monkeypatch.setattr(visited_blocks, "MIN_QUERIES", 0)


def draw(B, H, G, T, S, J, size, K, V, dtype=torch.float64):
    """Return queries, keys and values, and blocks that each query reads beside its own, in any order."""
    torch.manual_seed(T)
    q, k, v = (torch.randn(sizes, dtype=dtype) for sizes in ((B, H, T, K), (B, G, S, K), (B, G, S, V)))
    first_B1 = torch.randint(S - T + 1, (B, 1))
    step_BT = first_B1 + torch.arange(T)
    num_blocks = -(-S // size)
    blocks = torch.full((B, G, T, J), num_blocks)
    for place in torch.cartesian_prod(*map(torch.arange, (B, G, T))).tolist():
        b, _, t = place
        own = int(step_BT[b, t]) // size
        others = torch.randperm(own)[: J - 1].tolist()  # fewer at the beginning
        row = blocks[tuple(place)]
        row[torch.randperm(J)[: len(others) + 1]] = torch.tensor([own, *others])
    return [x.requires_grad_() for x in (q, k, v)], blocks, step_BT


def both(inputs: list[Tensor], blocks: Tensor, step: Tensor, size: int) -> list[Tensor]:
    options = {"block_size": size, "scale": 0.3}
    with use_backends(visited_blocks.block_backends()):
        return [call(*inputs, blocks, step, **options) for call in (block_attention, block_attention_reference)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_exact(shape):
    inputs, blocks, step = draw(*shape)
    assert_same_gradients(*both(inputs, blocks, step, shape[6]), inputs)


def test_samples_may_share_their_steps():
    inputs, blocks, _ = draw(2, 4, 2, 21, 21, 3, 4, 5, 5)
    assert_same_gradients(*both(inputs, blocks, torch.arange(21)[None], 4), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=str)
def test_it_is_rounded_no_more_than_its_inputs(dtype, tolerance):
    inputs, blocks, step = draw(*SHAPES[2], dtype)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    ours, exact = both(inputs, blocks, step, 3)[0], both(exact_inputs, blocks, step, 3)[1]
    weights = torch.linspace(-1, 1, exact.numel(), dtype=torch.float64).view_as(exact)
    found = (ours, *torch.autograd.grad((ours * weights.to(dtype)).sum(), inputs))
    right = (exact, *torch.autograd.grad((exact * weights).sum(), exact_inputs))
    for one, other in zip(found, right, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= tolerance * other.norm()


def test_scores_that_overflow_are_no_matter():
    inputs, blocks, step = draw(*SHAPES[1])
    huge = [(300 * x).detach().requires_grad_() for x in inputs[:2]]
    assert_same_gradients(*both([*huge, inputs[2]], blocks, step, 4), [*huge, inputs[2]])


def test_pairs_are_computed_where_they_are_few_or_have_a_bias(monkeypatch):
    monkeypatch.setattr(visited_blocks, "MIN_QUERIES", 20)
    monkeypatch.setattr(visited_blocks, "MIN_SPARSITY", 2)

    def is_ours(J, T, bias=None):
        inputs, blocks, step = draw(1, 2, 1, T, 40, J, 4, 3, 3)
        with use_backends(visited_blocks.block_backends()):
            y = block_attention(*inputs, blocks, step, bias, block_size=4, scale=1.0)
        return type(y.grad_fn).__name__ == "TransposeBackward0"

    assert is_ours(J=5, T=20)
    assert not is_ours(J=6, T=20)  # less than twice as many keys as are read
    assert not is_ours(J=5, T=19)
    assert not is_ours(J=5, T=20, bias=torch.zeros(1, 2, 20, 40, dtype=torch.float64))


def test_a_trace_without_values_has_its_shapes_and_costs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), StepRecorder() as recorder, use_backends(visited_blocks.block_backends()):
        inputs = [
            torch.empty(sizes, dtype=torch.bfloat16, requires_grad=True)
            for sizes in ((2, 6, 30, 16), (2, 3, 40, 16), (2, 3, 40, 24))
        ]
        blocks, step = (torch.empty(sizes, dtype=torch.int64) for sizes in ((2, 3, 30, 4), (1, 30)))
        y = block_attention(*inputs, blocks, step, block_size=5, scale=0.3)
        gradients = torch.autograd.grad(y.sum(), inputs)
    assert (y.shape, y.dtype) == ((2, 6, 30, 24), torch.bfloat16)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]
    costs = {op.name: op for op in recorder.ops()}
    forward, backward = costs["archlab.block_attention"], costs["archlab.block_attention_back"]
    pairs = 2 * 6 * 30 * 4 * 5
    assert (forward.flops, backward.flops) == (2 * pairs * (16 + 24), 2 * pairs * (3 * 16 + 2 * 24))


@pytest.mark.slow
def test_it_compiles_without_a_graph_break():
    inputs, blocks, step = draw(*SHAPES[1])
    with use_backends(visited_blocks.block_backends()):
        compiled = torch.compile(block_attention, fullgraph=True, backend="aot_eager")
        y = compiled(*inputs, blocks, step, block_size=4, scale=0.3)
    assert_same_gradients(y, both(inputs, blocks, step, 4)[0], inputs)


@pytest.mark.slow
def test_the_operation_is_registered_correctly():
    inputs, blocks, step = draw(*SHAPES[1])
    inputs = [x.detach().transpose(1, 2).requires_grad_() for x in inputs]
    torch.library.opcheck(visited_blocks._forward, (*inputs, blocks, step, 4, 0.3))
