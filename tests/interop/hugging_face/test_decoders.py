"""LLaMA, Mistral, Mixtral and Gemma of the transformers library, in odd shapes, in both directions."""

from pathlib import Path

import pytest
import torch
from hugging_face_helpers import assert_same_both_ways, assert_same_decoding, random_model, random_tokens, transformers

from archlab import ArchlabError
from archlab.interop import load_pretrained, save_pretrained

SIZES = {
    "vocab_size": 37,
    "hidden_size": 36,
    "intermediate_size": 51,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": None,
}
LONG = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
# Their products of experts need rows of 16 bytes.
ALIGNED = {"intermediate_size": 52}
CASES = {
    "llama-grouped": ("Llama", {"head_dim": 10} | LONG),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
    "llama-one-key": ("Llama", {"num_key_value_heads": 1, "vocab_size": 101}),
    "mistral-sliding": ("Mistral", {"sliding_window": 5, "head_dim": 8}),
    "mistral-longer-than-text": ("Mistral", {"sliding_window": 50, "head_dim": 4} | LONG),
    "mistral-full": ("Mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", ALIGNED | {"num_local_experts": 5, "num_experts_per_tok": 3, "head_dim": 10} | LONG),
    "mixtral-sliding": (
        "Mixtral",
        ALIGNED | {"sliding_window": 5, "num_local_experts": 3, "tie_word_embeddings": True},
    ),
    "mixtral-one": ("Mixtral", ALIGNED | {"num_local_experts": 4, "num_experts_per_tok": 1}),
    "mixtral-dense": ("Mixtral", ALIGNED | {"num_local_experts": 1, "num_experts_per_tok": 1}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma-one-key": ("Gemma", {"head_dim": 6, "num_key_value_heads": 1} | LONG),
    "gemma-untied": ("Gemma", {"head_dim": 8, "tie_word_embeddings": False, "attention_bias": True}),
}
every_case = pytest.mark.parametrize(("system", "own"), CASES.values(), ids=CASES)


def model_of(system: str, own: dict[str, object], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    config = getattr(transformers, f"{system}Config")(**(SIZES | own))
    return random_model(getattr(transformers, f"{system}ForCausalLM"), config, dtype)


@every_case
def test_logits_and_decoding_agree_both_ways(tmp_path: Path, system: str, own: dict[str, object]) -> None:
    theirs = model_of(system, own)
    inputs = random_tokens(theirs.config.vocab_size)
    ours = assert_same_both_ways(theirs, tmp_path, system.lower(), inputs, atol=1e-5)
    assert_same_decoding(theirs, ours, inputs[:, :7])


def test_a_sliding_window_is_seen_to_slide(tmp_path: Path) -> None:
    inputs = random_tokens(37)
    short, long = (model_of("Mistral", {"sliding_window": size}) for size in (5, None))
    with torch.no_grad():
        assert (short(inputs).logits - long(inputs).logits).abs().max() > 0.01


@pytest.mark.parametrize(
    ("system", "own", "problem"),
    [
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters .*'linear'",
        ),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act 'gelu': not represented, only 'silu' or 'swish' is"),
        ("Gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention True: not represented"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    tmp_path: Path, system: str, own: dict[str, object], problem: str
) -> None:
    model_of(system, own).save_pretrained(tmp_path)
    with pytest.raises(ArchlabError, match=f"config.json: {problem}"):
        load_pretrained(tmp_path)


def test_a_model_that_another_library_lacks_is_refused(tmp_path: Path) -> None:
    model_of("Gemma", {"head_dim": 6}).save_pretrained(tmp_path / "gemma")
    ours = load_pretrained(tmp_path / "gemma")
    with pytest.raises(ArchlabError, match="the model is no llama: "):
        save_pretrained(ours, tmp_path / "llama", "llama")
    assert not (tmp_path / "llama").exists()
