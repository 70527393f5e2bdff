"""Mamba and Mamba-2 of the transformers library, in odd shapes, in both directions."""

from pathlib import Path

import pytest
from hugging_face_helpers import assert_same_both_ways, assert_same_decoding, random_model, random_tokens, transformers
from safetensors.torch import load_file, save_file

from archlab import ArchlabError
from archlab.interop import load_pretrained

SIZES = {"vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "eos_token_id": None}
HEADS = {"num_heads": 6, "head_dim": 8, "state_size": 5, "chunk_size": 8}
CASES = {
    "mamba": ("Mamba", {"state_size": 5, "conv_kernel": 3, "time_step_rank": 7, "layer_norm_epsilon": 1e-3}),
    "mamba-biased": ("Mamba", {"expand": 3, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False}),
    "mamba2": ("Mamba2", HEADS | {"n_groups": 1}),
    "mamba2-groups": ("Mamba2", HEADS | {"n_groups": 3, "tie_word_embeddings": True, "use_bias": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("system", "own"), CASES.values(), ids=CASES)
def test_logits_and_decoding_agree_both_ways(tmp_path: Path, system: str, own: dict[str, object]) -> None:
    config = getattr(transformers, f"{system}Config")(**(SIZES | own))
    theirs = random_model(getattr(transformers, f"{system}ForCausalLM"), config)
    ours = assert_same_both_ways(theirs, tmp_path, system.lower(), random_tokens(37, 35), atol=1e-5)
    assert_same_decoding(theirs, ours, random_tokens(37)[:, :7], num_new=8)


def test_limited_steps_are_refused_by_name(tmp_path: Path) -> None:
    config = transformers.Mamba2Config(**SIZES, **HEADS, n_groups=1, time_step_limit=(0.0, 0.5))
    random_model(transformers.Mamba2ForCausalLM, config).save_pretrained(tmp_path)
    with pytest.raises(ArchlabError, match=r"config\.json: time_step_limit \[0\.0, 0\.5\]: not represented"):
        load_pretrained(tmp_path)


def test_a_tensor_without_the_axes_of_its_kind_is_named(tmp_path: Path) -> None:
    random_model(transformers.MambaForCausalLM, transformers.MambaConfig(**SIZES)).save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "backbone.layers.1.mixer.conv1d.weight"
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].flatten()}, file, {"format": "pt"})
    with pytest.raises(ArchlabError, match=rf"{name}: shape \(192,\) is not that of such a tensor$"):
        load_pretrained(tmp_path)
