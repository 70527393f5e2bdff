"""RWKV-4 compared with the class of Hugging Face, in both directions."""

import pytest
import torch
from hugging_face_helpers import assert_same_next_tokens, transformers

from archlab.config import experiment
from archlab.config.spec import parse
from archlab.interop import load_pretrained, save_pretrained
from archlab.interop.hugging_face.formats import rwkv
from archlab.modeling.build import build

VOCAB = 37
CONFIGS = {
    "plain": {"rescale_every": 0},
    "rescaled": {"rescale_every": 2},
    "rescaled_at_the_end": {"rescale_every": 5, "layer_norm_epsilon": 1e-3},
    "tied": {"rescale_every": 1, "tie_word_embeddings": True},
    "narrow": {"attention_hidden_size": 12, "intermediate_size": 37},
    "wide": {"attention_hidden_size": 24, "intermediate_size": 19, "tie_word_embeddings": True},
}
every_config = pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)


def their_model(**fields):
    """Return a small model of theirs, with noise in every tensor, and a residual stream so small that eps matters."""
    torch.manual_seed(0)
    config = transformers.RwkvConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=5, **fields)
    model = transformers.RwkvForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.rwkv.blocks[0].pre_ln.weight.mul_(0.02)
        for block in model.rwkv.blocks:
            block.attention.output.weight.mul_(0.05)
            block.feed_forward.value.weight.mul_(0.05)
    return model


def our_tree(**fields):
    return rwkv.to_archlab_config(
        rwkv.FIELDS | {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 5} | fields
    )


def prompt():
    return torch.randint(VOCAB, (2, 33), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(theirs, ours):
    """Compare logits, and greedy decoding, ours from the state."""
    logits, expected = ours(prompt())[0], theirs(prompt(), use_cache=False).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert_same_next_tokens(theirs, ours, prompt()[:1, :3], num_new=12)


@pytest.mark.slow
@every_config
def test_their_checkpoint_is_read(fields, tmp_path):
    theirs = their_model(**fields)
    theirs.save_pretrained(tmp_path)
    assert_same(theirs, load_pretrained(tmp_path))


@pytest.mark.slow
@every_config
def test_our_checkpoint_is_theirs(fields, tmp_path):
    ours = build(parse(our_tree(**fields), "backbone", "model")).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_pretrained(ours, tmp_path, "rwkv")
    assert_same(transformers.RwkvForCausalLM.from_pretrained(tmp_path).eval(), ours)


@pytest.mark.slow
def test_their_state_is_ours_token_by_token(tmp_path):
    theirs, state, kept = their_model(rescale_every=2), None, None
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    for token in prompt()[:1].split(1, dim=1):
        with torch.no_grad():
            out = theirs(token, state=kept, use_cache=True)
            logits, state = ours(token, state)
        kept = out.state
        torch.testing.assert_close(logits, out.logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_shipped_experiment_is_theirs(tmp_path):
    ours = build(experiment.load("rwkv4_tiny").model).eval()
    save_pretrained(ours, tmp_path, "rwkv")
    theirs = transformers.RwkvForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(prompt())[0], theirs(prompt(), use_cache=False).logits, rtol=0, atol=1e-5)


@every_config
def test_the_configuration_comes_back(fields):
    tree = parse(our_tree(**fields), "backbone", "model").to_plain()
    back = rwkv.FIELDS | rwkv.to_hf_config(tree)
    assert parse(rwkv.to_archlab_config(back), "backbone", "model").to_plain() == tree


def test_rescaling_changes_the_logits():
    """Without the larger eps of rescaled layers the logits would differ: the comparison above is no accident."""
    theirs = their_model(rescale_every=2)
    unscaled = their_model(rescale_every=0)
    with torch.no_grad():
        assert (
            theirs(prompt(), use_cache=False).logits - unscaled(prompt(), use_cache=False).logits
        ).abs().max() > 1e-3
