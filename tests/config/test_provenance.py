from archlab.config.provenance import Provenance


def test_the_last_layer_that_sets_a_path_is_its_origin() -> None:
    provenance = Provenance().add("base.yaml", {"train": {"lr": 1}, "model": "decoder"})
    provenance = provenance.add("top.yaml", {"train": {"lr": 2}}).add("command line", {"model.layers[0]": "block"})
    assert provenance.origin_of("train.lr") == "top.yaml"
    assert provenance.origin_of("model.type") == "base.yaml"
    assert provenance.origin_of("model.layers[0].norm") == "command line"
    assert provenance.origin_of("model.layers[1].norm") == "base.yaml"
    assert provenance.last == "command line"
