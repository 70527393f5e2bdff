"""Embeddings of images and waveforms, and the classifier head."""

import pytest
import torch
from torch.nn import functional as F

from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.modeling.build import build_on_meta, max_context


def embedding(name, **knobs):
    torch.manual_seed(0)
    return find("embedding", name).cls(None, 8, **knobs).double()


def images(channels=3, height=6, width=9):
    torch.manual_seed(1)
    return torch.randn(2, channels, height, width, dtype=torch.float64)


def model(name, window=20, **knobs):
    tree = {
        "type": "stack",
        "dim": 8,
        "embedding": {"type": name} | knobs,
        "layers": [{"mixer": {"type": "attention", "attention": {"type": "softmax", "window_size": window}}}],
        "head": {"type": "classifier", "num_outputs": 5},
    }
    return build_on_meta(parse(tree, "backbone", "model"))


@pytest.mark.parametrize("class_tokens", [0, 1, 2])
def test_patches_are_a_linear_function_of_squares_behind_class_tokens(class_tokens):
    layer, x = embedding("patches", patch_size=3, class_tokens=class_tokens), images()
    y = layer(x)
    assert y.shape == (2, class_tokens + 6, 8)
    squares = [x[:, :, top : top + 3, left : left + 3].flatten(1) for top in (0, 3) for left in (0, 3, 6)]
    expected = torch.stack(squares, 1) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(y[:, class_tokens:], expected, rtol=1e-12, atol=1e-12)
    for place, token in enumerate(layer.class_tokens):
        assert torch.equal(y[:, place], token.expand(2, -1))
    assert len(list(layer.class_tokens)) == class_tokens


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="images of 6 x 9 pixels are not whole patches of 4"):
        embedding("patches", patch_size=4)(images())
    with pytest.raises(RuntimeError):
        embedding("patches", patch_size=3)(images(channels=1))


def test_frames_are_a_strided_convolution():
    layer = embedding("frames", frame_size=4, num_channels=2)
    wave = torch.randn(3, 20, 2, dtype=torch.float64)
    weight = layer.projection.weight.unflatten(1, (4, 2)).mT
    expected = F.conv1d(wave.mT, weight, layer.projection.bias, stride=4).mT
    torch.testing.assert_close(layer(wave), expected, rtol=1e-12, atol=1e-12)


def test_a_wave_of_one_channel_has_no_channel_axis():
    layer, wave = embedding("frames", frame_size=4), torch.randn(3, 20, dtype=torch.float64)
    assert layer(wave).shape == (3, 5, 8)
    assert torch.equal(layer(wave), layer(wave[..., None]))


def test_waves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="waves of 21 samples are not whole frames of 4"):
        embedding("frames", frame_size=4)(torch.randn(1, 21))


def test_dropout_only_in_training():
    for layer, x in ((embedding("patches", patch_size=3, dropout=0.5), images()),):
        assert (layer(x) == 0).any()
        assert not (layer.eval()(x) == 0).any()
    layer = embedding("frames", dropout=0.5)
    assert (layer(torch.ones(2, 9).double()) == 0).any()


def test_full_attention_counts_positions_not_inputs():
    assert max_context(model("patches", patch_size=4)) == 19 * 16
    assert max_context(model("patches", patch_size=4, class_tokens=0)) == 20 * 16
    assert max_context(model("frames", frame_size=5)) == 100
    model("patches", patch_size=4)(torch.zeros(1, 3, 4, 4 * 19, device="meta"))
    with pytest.raises(ValueError, match="21 tokens are more than the window_size 20"):
        model("patches", patch_size=4)(torch.zeros(1, 3, 4, 4 * 20, device="meta"))


def classifier(**knobs):
    torch.manual_seed(0)
    return find("head", "classifier").cls(8, None, None, num_outputs=5, **knobs)


@pytest.mark.parametrize("bias", [True, False])
def test_the_classifier_pools_and_scores(bias):
    x = torch.randn(2, 7, 8)
    pooled = {"first": x[:, 0], "last": x[:, -1], "mean": x.mean(1)}
    for pool, kept in pooled.items():
        head = classifier(pool=pool, bias=bias)
        expected = kept @ head.weight.T + (head.bias if bias else 0)
        torch.testing.assert_close(head(x), expected)
        assert head.per_sample
        assert head.num_outputs == 5
        assert (head.bias is not None) == bias


def test_scores_are_at_least_float32():
    assert classifier().bfloat16()(torch.randn(2, 7, 8).bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier()(torch.randn(2, 7, 8)).dtype == torch.float32
