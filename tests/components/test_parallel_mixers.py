"""Two mixers side by side: the sum of what each computes on its own, in outputs, gradients, streams and training."""

import torch
from streams import assert_one_stream, assert_same_gradients
from torch import nn

from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.modeling.param_scales import branches_of

MAMBA = {"type": "mamba2", "state_dim": 3, "head_dim": 5, "width": 15}
ATTENTION = {
    "type": "attention",
    "num_heads": 3,
    "attention": {"type": "softmax", "window": "sliding", "window_size": 4},
}
FACTORS = {
    "first_input_factor": 1.3,
    "first_output_factor": 0.6,
    "second_input_factor": 0.7,
    "second_output_factor": 2.1,
}


def part(knobs: dict[str, object]) -> nn.Module:
    """Return a mixer with random parameters."""
    mixer: nn.Module = parse(knobs, "mixer", "mixer").factory()(12).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return mixer


def test_it_is_the_sum_of_both() -> None:
    first, second = part(MAMBA), part(ATTENTION)
    layer = find("mixer", "parallel").cls(12, first=lambda dim: first, second=lambda dim: second, **FACTORS)
    x = torch.randn(2, 11, 12, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()
    expected = 0.6 * first(1.3 * x)[0] + 2.1 * second(0.7 * x)[0]
    assert_same_gradients(layer(x)[0], expected, [x, *layer.parameters()])
    with torch.no_grad():
        assert_one_stream(layer, x)


def test_depth_scales_what_both_add() -> None:
    block = part(
        {"type": "parallel", "first": MAMBA, "second": {"type": "parallel", "first": ATTENTION, "second": ATTENTION}}
    )
    names = [type(module).__name__ for module in branches_of(block)]
    assert names == ["Mamba2", "MultiHeadAttention", "MultiHeadAttention"]
