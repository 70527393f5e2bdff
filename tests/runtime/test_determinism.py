import pytest
import torch
from conftest import needs_compiler
from torch.nn import functional as F

from archlab.runtime.determinism import deterministic_algorithms


@pytest.mark.services  # the first use of Inductor compiles headers of C++
@needs_compiler
def test_the_gradient_of_a_compiled_embedding_is_the_same_at_every_run() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 64, requires_grad=True)
    indices, factors = torch.randint(8, (4096,)), torch.randn(4096, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # of which each adds to all rows
    try:
        with deterministic_algorithms():
            loss = torch.compile(lambda w: (F.embedding(indices, w) * factors).sum(), fullgraph=True)
            first, *others = (torch.autograd.grad(loss(weight), weight)[0] for _ in range(20))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)


def test_the_mode_ends_with_its_context() -> None:
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
