"""Random small models of transformers, of every type that has a line in `random_configs`, both ways in float64."""

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import seeds
from float64_helpers import EAGER, Wide, assert_same_in_float64, reload, wide_model
from hugging_face_helpers import random_tokens, transformers
from random_configs import DRAWS
from torch import nn

from archlab.interop import load_pretrained, save_pretrained
from archlab.interop.hugging_face.config_json import find_model_type

OF_IMAGES = ("vit", "deit")


def random_config(model_type: str, seed: int) -> Any:
    """Return a configuration of theirs; its seed is that of its type alone."""
    name, draw = DRAWS[model_type]
    fields = deepcopy(draw(random.Random(f"{model_type} {seed}")))
    return getattr(transformers, f"{name}Config")(**fields, **({} if model_type in OF_IMAGES else EAGER))


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("model_type", DRAWS)
def test_logits_agree_both_ways(model_type: str, seed: int, tmp_path: Path) -> None:
    config = random_config(model_type, seed)
    theirs = wide_model(getattr(transformers, find_model_type(model_type, "").architecture), config)
    if model_type in OF_IMAGES:
        assert_same_for_images(theirs, tmp_path, model_type)
    else:
        assert_same_in_float64(theirs, tmp_path, model_type, random_tokens(config.vocab_size))


@torch.no_grad()
def assert_same_for_images(theirs: nn.Module, folder: Path, model_type: str) -> None:
    side, generator = theirs.config.image_size, torch.Generator().manual_seed(1)
    images = torch.randn(2, theirs.config.num_channels, side, side, dtype=torch.float64, generator=generator)
    theirs.save_pretrained(folder / "theirs")
    ours = load_pretrained(folder / "theirs")
    save_pretrained(ours, folder / "ours", model_type)
    back = reload(type(theirs), folder / "ours")
    with Wide():  # its softmax too, which eager attention has in float32
        expected, again = theirs(images).logits, back(images).logits
    torch.testing.assert_close(ours(images)[0], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-10)
