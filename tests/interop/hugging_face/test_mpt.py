"""MPT compared with the class of the transformers library, in both directions."""

import json

import pytest
import torch
from hugging_face_helpers import add_noise, assert_same_next_tokens, transformers

from archlab import ArchlabError
from archlab.config.spec import parse
from archlab.interop import describe_pretrained, load_pretrained, save_pretrained
from archlab.modeling.build import build

VOCAB, CONTEXT = 37, 33
SMALL = {"d_model": 24, "n_heads": 4, "n_layers": 3, "max_seq_len": CONTEXT, "vocab_size": VOCAB}
CONFIGS = {
    "four_heads": {},
    "one_head": {"d_model": 7, "n_heads": 1},
    "three_heads": {"n_heads": 3},
    "six_heads": {"n_heads": 6},
    "twelve_heads": {"n_heads": 12},
    "untied": {"tie_word_embeddings": False},
    "eps": {"layer_norm_epsilon": 1e-2},
}
every_config = pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)


def their_model(**fields):
    """Return a small model of theirs, with noise in every tensor."""
    torch.manual_seed(0)
    return add_noise(transformers.MptForCausalLM(transformers.MptConfig(**(SMALL | fields))))


def text():
    return torch.randint(VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(theirs, ours):
    """Compare logits, and greedy decoding, ours from the state."""
    torch.testing.assert_close(ours(text())[0], theirs(text()).logits, rtol=0, atol=1e-5)
    assert_same_next_tokens(theirs, ours, text()[:1, :3], num_new=20)


@pytest.mark.slow
@every_config
def test_their_checkpoint_is_read(fields, tmp_path):
    theirs = their_model(**fields)
    theirs.save_pretrained(tmp_path)
    assert_same(theirs, load_pretrained(tmp_path))


@pytest.mark.slow
@every_config
def test_our_checkpoint_is_theirs(fields, tmp_path):
    their_model(**fields).save_pretrained(tmp_path / "theirs")
    ours = add_noise(build(describe_pretrained(tmp_path / "theirs")))
    save_pretrained(ours, tmp_path / "ours", "mpt")
    assert_same(transformers.MptForCausalLM.from_pretrained(tmp_path / "ours").eval(), ours)
    assert describe_pretrained(tmp_path / "ours").to_plain() == describe_pretrained(tmp_path / "theirs").to_plain()


def test_logits_agree_in_float64_but_for_their_softmax(tmp_path):
    """Their softmax is in float32 whatever the model's dtype."""
    theirs = their_model(n_heads=6).double()
    theirs.save_pretrained(tmp_path)
    assert_same(theirs, load_pretrained(tmp_path))


def test_a_published_configuration_is_read(tmp_path):
    """The fields that the first MPT models came with."""
    attention = {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0, "clip_qkv": None}
    attention |= {"attn_type": "multihead_attention", "attn_uses_sequence_id": False, "prefix_lm": False}
    fields = {"attn_config": attention | {"qk_ln": False, "softmax_scale": None}, "init_config": {"name": "kaiming"}}
    fields |= {"verbose": 0, "tokenizer_name": "neox", "emb_pdrop": 0, "resid_pdrop": 0, "learned_pos_emb": True}
    _write(tmp_path, SMALL | fields)
    theirs = their_model()
    theirs.save_pretrained(tmp_path / "theirs")
    assert describe_pretrained(tmp_path).to_plain() == describe_pretrained(tmp_path / "theirs").to_plain()


def _write(folder, fields):
    (folder / "config.json").write_text(json.dumps({"model_type": "mpt"} | fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"attn_config": {"qk_ln": True}}, r"attn_config\.qk_ln True: not represented, only False is"),
        ({"attn_config": {"clip_qkv": 6}}, r"attn_config\.clip_qkv 6: not represented, only None is"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, r"attn_config\.attn_type 'multiquery_attention': not"),
        ({"attn_config": {"alibi": False}}, r"attn_config\.alibi False: not represented, only True is"),
        ({"attn_config": {"alibi_bias_max": 16}}, r"attn_config\.alibi_bias_max 16: not represented, only 8 is"),
        ({"attn_config": {"attn_impl": "other"}}, r"attn_config\.attn_impl 'other': not represented"),
        ({"attn_config": {"prefix_lm": True}}, r"attn_config\.prefix_lm True: not represented"),
        ({"attn_config": {"softmax_scale": 0.1}}, r"attn_config\.softmax_scale 0\.1: not represented"),
        ({"attn_config": {"rope": True}}, r"attn_config\.rope True: not represented"),
        ({"no_bias": False}, "no_bias False: not represented, only True is"),
        ({"expansion_ratio": 3}, "expansion_ratio 3: not represented, only 4 is"),
        ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale 'inv_sqrt_d_model': not represented"),
        ({"norm_type": "rmsnorm"}, "norm_type 'rmsnorm': not represented"),
        ({"n_head": 3}, "unknown field 'n_head', here 3; did you mean 'n_heads'"),
    ],
)
def test_what_cannot_be_represented_is_named(fields, problem, tmp_path):
    _write(tmp_path, SMALL | fields)
    with pytest.raises(ArchlabError, match=problem):
        describe_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": {"type": "layer", "zero_centered": False}},
        {"position": "learned"},
        {"head": {"type": "language_model", "num_outputs": 40}},
    ],
)
def test_a_model_that_they_do_not_have_is_refused(change, tmp_path):
    _write(tmp_path, SMALL)
    tree = describe_pretrained(tmp_path).to_plain() | change
    with pytest.raises(ArchlabError, match="the model is no mpt: "):
        save_pretrained(build(parse(tree, "backbone", "model")), tmp_path / "ours", "mpt")
