"""ViT and DeiT compared with the classes of the transformers library, in both directions."""

import json

import pytest
import torch
from hugging_face_helpers import add_noise, transformers

from archlab import ArchlabError
from archlab.config.spec import parse
from archlab.interop import describe_pretrained, import_checkpoint, load_pretrained, save_pretrained
from archlab.modeling.build import build
from archlab.storage.trained_model import load_trained

CLASSES = {
    "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
    "deit": (transformers.DeiTConfig, transformers.DeiTForImageClassification),
}
SMALL = {
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 22,
    "image_size": 15,
    "patch_size": 5,
    "num_channels": 2,
    "num_labels": 7,
}
CONFIGS = {
    "odd": {},
    "two_labels": {"num_labels": 2},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-3},
    "one_patch": {"patch_size": 15, "num_attention_heads": 5},
    "pairs_of_sides": {"image_size": [15, 15], "patch_size": [3, 3]},
}
every_class = pytest.mark.parametrize("model_type", CLASSES)
every_config = pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)


def their_model(model_type, **fields):
    """Return a small model of theirs, with noise in every tensor."""
    torch.manual_seed(0)
    config, model = CLASSES[model_type]
    return add_noise(model(config(**(SMALL | fields))), scale=0.2)


def images(dtype=torch.float32):
    return torch.randn(3, 2, 15, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@torch.no_grad()
def assert_same(theirs, ours, tolerance=1e-5):
    dtype = next(ours.parameters()).dtype
    logits, expected = ours(images(dtype))[0], theirs(images(dtype)).logits
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)


@every_class
@every_config
def test_their_checkpoint_is_read(model_type, fields, tmp_path):
    theirs = their_model(model_type, **fields)
    theirs.save_pretrained(tmp_path)
    assert_same(theirs, load_pretrained(tmp_path))


@every_class
def test_logits_agree_in_float64(model_type, tmp_path):
    theirs = their_model(model_type).double()
    theirs.save_pretrained(tmp_path)
    assert_same(theirs, load_pretrained(tmp_path), 1e-10)


@every_class
@every_config
def test_our_checkpoint_is_theirs(model_type, fields, tmp_path):
    their_model(model_type, **fields).save_pretrained(tmp_path / "theirs")
    ours = add_noise(build(describe_pretrained(tmp_path / "theirs")), scale=0.2)
    save_pretrained(ours, tmp_path / "ours", model_type)
    assert_same(CLASSES[model_type][1].from_pretrained(tmp_path / "ours").eval(), ours)
    assert describe_pretrained(tmp_path / "ours").to_plain() == describe_pretrained(tmp_path / "theirs").to_plain()


@every_class
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"qkv_bias": False}, "qkv_bias False: not represented, only True is"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu': not represented"),
        ({"hidden_dropout_prob": 0.1}, r"hidden_dropout_prob 0\.1: not represented"),
        ({"image_size": [15, 20]}, r"image_size \[15, 20\]: not represented, images and patches are squares"),
        ({"patch_size": 4}, "image_size 15: not represented, it is not a multiple of patch_size 4"),
        ({"depth": 3}, "unknown field 'depth'"),
    ],
)
def test_what_cannot_be_represented_is_named(model_type, fields, problem, tmp_path):
    their_model(model_type).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ArchlabError, match=problem):
        describe_pretrained(tmp_path)


@every_class
@pytest.mark.parametrize(
    "change",
    [
        {"position": {"type": "learned", "max_length": 12}},
        {"head": {"type": "classifier", "num_outputs": 7, "pool": "mean"}},
        {"head": {"type": "classifier", "num_outputs": 7, "pool": "first", "bias": False}},
        {"norm": "rms"},
    ],
)
def test_a_model_that_they_do_not_have_is_refused(model_type, change, tmp_path):
    their_model(model_type).save_pretrained(tmp_path / "theirs")
    tree = describe_pretrained(tmp_path / "theirs").to_plain()
    ours = build(parse(tree | change, "backbone", "model"))
    with pytest.raises(ArchlabError, match=f"the model is no {model_type}: "):
        save_pretrained(ours, tmp_path / "ours", model_type)


def test_class_tokens_of_one_are_not_those_of_the_other(tmp_path):
    their_model("deit").save_pretrained(tmp_path / "deit")
    with pytest.raises(ArchlabError, match="the model is no vit"):
        save_pretrained(load_pretrained(tmp_path / "deit"), tmp_path / "vit", "vit")


@pytest.mark.slow
def test_an_imported_classifier_has_no_tokens(tmp_path):
    their_model("vit").save_pretrained(tmp_path / "vit")
    imported, model = load_trained(import_checkpoint(tmp_path / "vit", tmp_path / "out"))
    assert (imported.task.name, imported.task.knobs["num_outputs"]) == ("no_data_classifier", 7)
    assert model.tokens is None
    with torch.no_grad():
        expected = load_pretrained(tmp_path / "vit")(images())[0]
        torch.testing.assert_close(model(images())[0], expected, rtol=0, atol=0)
