"""Small random models of transformers, and comparisons of them with archlab's."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
transformers = pytest.importorskip("transformers", reason="these tests compare with the transformers library")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

from archlab.interop import load_pretrained, save_pretrained  # noqa: E402


def add_noise(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Add noise to every parameter, so that norms and biases are not at their neutral initial values."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter.dtype), alpha=scale)
    return model.eval()


def random_model(cls: type, config: object, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model of theirs with random values in every parameter."""
    torch.manual_seed(0)
    return add_noise(cls(config).to(dtype))


def random_tokens(vocab_size: int, num_tokens: int = 23) -> Tensor:
    return torch.randint(vocab_size, (2, num_tokens), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_both_ways(theirs: nn.Module, folder: Path, model_type: str, inputs: Tensor, atol: float) -> nn.Module:
    """Their checkpoint loaded here, and ours loaded there, give the same logits; return ours."""
    theirs.save_pretrained(folder / "theirs")
    ours = load_pretrained(folder / "theirs")
    expected = theirs(inputs).logits
    torch.testing.assert_close(ours(inputs)[0], expected, rtol=0, atol=atol)
    save_pretrained(ours, folder / "ours", model_type)
    dtype = next(theirs.parameters()).dtype
    back, report = type(theirs).from_pretrained(folder / "ours", dtype=dtype, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    torch.testing.assert_close(back.eval()(inputs).logits, expected, rtol=0, atol=atol)
    return ours


@torch.inference_mode()
def assert_same_decoding(theirs: nn.Module, ours: nn.Module, prompt: Tensor, num_new: int = 16) -> None:
    """Greedy decoding from the state gives the same tokens as their `generate`."""
    options = {"max_new_tokens": num_new, "min_new_tokens": num_new, "do_sample": False}
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)
    token, state, tokens = prompt, None, [prompt]
    for _ in range(num_new):
        logits, state = ours(token, state)
        token = logits[:, -1:].argmax(-1)
        tokens.append(token)
    assert torch.cat(tokens, 1).tolist() == expected.tolist()


@torch.inference_mode()
def assert_same_next_tokens(theirs: nn.Module, ours: nn.Module, prompt: Tensor, num_new: int) -> None:
    """Greedy decoding from the state gives the tokens that theirs gives for the whole text at every step."""
    text, token, state = prompt, prompt, None
    for _ in range(num_new):
        logits, state = ours(token, state)
        token = logits[:, -1:].argmax(-1)
        assert token == theirs(text, use_cache=False).logits[:, -1:].argmax(-1)
        text = torch.cat((text, token), 1)
