"""xLSTM of the transformers library, in both directions."""

from pathlib import Path

import pytest
import torch
from hugging_face_helpers import (
    assert_same_both_ways,
    assert_same_decoding,
    random_model,
    random_tokens,
    transformers,
)

from archlab import ArchlabError
from archlab.interop import load_pretrained

SIZES = {"vocab_size": 37, "num_heads": 3, "num_hidden_layers": 2, "num_blocks": 2, "eos_token_id": None}
# The cache of the class is for queries, keys and values whose widths 64 divides.
CASES = {
    "wide": {"hidden_size": 40, "num_heads": 4, "qk_dim_factor": 1.6, "v_dim_factor": 3.2, "norm_eps": 1e-4},
    "one-head": {
        "hidden_size": 64,
        "num_heads": 1,
        "qk_dim_factor": 2.0,
        "ffn_proj_factor": 1.3,
        "ffn_round_up_to_multiple_of": 7,
    },
    "capped": {
        "hidden_size": 32,
        "num_heads": 2,
        "qk_dim_factor": 2.0,
        "v_dim_factor": 4.0,
        "gate_soft_cap": 2.0,
        "output_logit_soft_cap": 0.8,
        "num_blocks": 3,
        "num_hidden_layers": 3,
        "chunk_size": 16,
    },
}


def model_of(own: dict[str, object]):
    return random_model(transformers.xLSTMForCausalLM, transformers.xLSTMConfig(**(SIZES | own)))


@pytest.mark.slow
@pytest.mark.parametrize("own", CASES.values(), ids=CASES)
def test_logits_agree_both_ways(tmp_path: Path, own: dict[str, object]) -> None:
    theirs, inputs = model_of(own), random_tokens(37)
    ours = assert_same_both_ways(theirs, tmp_path, "xlstm", inputs, atol=1e-5)
    assert_same_decoding(theirs, ours, inputs[:, :7])


@torch.no_grad()
def test_widths_that_their_cache_cannot_hold(tmp_path: Path) -> None:
    own = {"hidden_size": 31, "num_heads": 3, "qk_dim_factor": 0.4, "v_dim_factor": 0.8, "use_cache": False}
    theirs, inputs = model_of(own), random_tokens(37)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(load_pretrained(tmp_path)(inputs)[0], theirs(inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"hidden_size": 30, "use_bias": True}, "use_bias True: not represented, only False is"),
        ({"hidden_size": 30, "embedding_dim": 31}, "embedding_dim 31: not represented, only hidden_size 30 is"),
        ({"hidden_size": 30, "gate_soft_cap": 50.0}, "gate_cap: 50.0 is "),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path: Path, own: dict[str, object], problem: str) -> None:
    transformers.xLSTMConfig(**(SIZES | own), architectures=["xLSTMForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(ArchlabError, match=problem):
        load_pretrained(tmp_path)
