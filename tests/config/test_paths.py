from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab import ConfigError
from archlab.config import paths

TREE: dict[str, Any] = {"model": {"dim": 4, "layers": [{"mixer": "mega"}, {"mixer": {"type": "mega", "ema": "cema"}}]}}


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("train", ["train"]),
        ("model.layers[0].mixer", ["model", "layers", 0, "mixer"]),
        ("model.layers[*].mixer", ["model", "layers", "*", "mixer"]),
        ("a[0][1]", ["a", 0, 1]),
        ("a-b.c_d", ["a-b", "c_d"]),
    ],
)
def test_paths_in_parts(path: str, parts: list[paths.Part]) -> None:
    assert paths.split(path) == parts
    assert paths.join(parts) == path


INVALID = ["", ".a", "a.", "a..b", "a[", "a[]", "a[-1]", "a[x]", "a b", "a]", "a=b", "a[0", "[0]", ".[0]"]
SPELLED_OTHERWISE = ["a[00]", "a[0]b", "a[\u0661]", "a[1000000000]", f"a[{'9' * 5000}]"]


@pytest.mark.parametrize("path", INVALID + SPELLED_OTHERWISE)
def test_invalid_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="is not a path like"):
        paths.split(path)


KEYS = st.from_regex(r"[a-z_]{1,5}", fullmatch=True)


@pytest.mark.slow
@given(st.tuples(KEYS, st.lists(KEYS | st.integers(0, 99) | st.just("*"), max_size=5)))
def test_split_undoes_join(parts: tuple[str, list[paths.Part]]) -> None:
    whole: list[paths.Part] = [parts[0], *parts[1]]
    assert paths.split(paths.join(whole)) == whole


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.dim", 4),
        ("model.layers[0].mixer", "mega"),
        ("model.layers[0].mixer.type", "mega"),
        ("model.layers[1].mixer.ema.type", "cema"),
        ("model.layers[2]", None),
        ("model.layers.dim", None),
        ("model[0]", None),
        ("model.dim.type", None),
        ("nowhere.at.all", None),
    ],
)
def test_get(path: str, value: Any) -> None:
    assert paths.get(TREE, path) == value


def test_get_distinguishes_null_from_nothing() -> None:
    nothing = object()
    assert paths.get({"a": None}, "a", nothing) is None
    assert paths.get({"a": None}, "a.b", nothing) is nothing


@pytest.mark.parametrize(
    ("path", "value"),
    [("model.dim", 8), ("model.layers[1].mixer.ema", "s4d"), ("train.lr", 0.1), ("model.layers[0]", {"mixer": "x"})],
)
def test_put(path: str, value: Any) -> None:
    before = deepcopy(TREE)
    changed = paths.put(TREE, path, value)
    assert paths.get(changed, path) == value
    assert before == TREE


def test_a_bare_name_becomes_a_mapping_on_the_way() -> None:
    changed = paths.put(TREE, "model.layers[0].mixer.ema.num_dims", 2)
    assert changed["model"]["layers"][0]["mixer"] == {"type": "mega", "ema": {"num_dims": 2}}
    changed = paths.put(changed, "model.layers[1].mixer.ema.num_dims", 2)
    assert changed["model"]["layers"][1]["mixer"]["ema"] == {"type": "cema", "num_dims": 2}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.layers[2].mixer", r"\[2\] is past the end of a list of 2"),
        ("model[0]", r"\[0\] indexes a value that is not a list"),
        ("model.dim.x", "'x' is a key of a value that is not a mapping"),
        ("model.layers.x", "'x' is a key of a value that is not a mapping"),
        ("task[0]", "there is no list 'task'"),
    ],
)
def test_put_at_impossible_paths(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        paths.put(TREE, path, 1)


def test_expand() -> None:
    assert paths.expand(TREE, "model.layers[*].mixer") == ["model.layers[0].mixer", "model.layers[1].mixer"]
    assert paths.expand(TREE, "model.layers[1]") == ["model.layers[1]"]
    assert paths.expand({"a": [{"b": [1, 2]}, {"b": [3]}]}, "a[*].b[*]") == ["a[0].b[0]", "a[0].b[1]", "a[1].b[0]"]
    with pytest.raises(ConfigError, match="model is not a list"):
        paths.expand(TREE, "model[*]")


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"type": "rms", "eps": 1}, {"type": "rms", "affine": True}, {"type": "rms", "eps": 1, "affine": True}),
        ({"type": "rms", "eps": 1}, {"affine": True}, {"type": "rms", "eps": 1, "affine": True}),
        ({"type": "rms", "eps": 1}, {"type": "layer"}, {"type": "layer"}),
        ("rms", {"eps": 1}, {"type": "rms", "eps": 1}),
        ("rms", {"type": "layer", "eps": 1}, {"type": "layer", "eps": 1}),
        ({"type": "rms", "eps": 1}, "rms", "rms"),
        ([1, 2, 3], [4], [4]),
        ({"a": 1}, None, None),
        (3, {"a": 1}, {"a": 1}),
    ],
)
def test_merge(base: Any, over: Any, merged: Any) -> None:
    assert paths.merge(base, over) == merged


def test_merge_keeps_the_order_of_the_base_and_shares_nothing() -> None:
    base, over = {"b": 1, "a": {"x": []}}, {"c": {"y": []}, "b": 2}
    merged = paths.merge(base, over)
    assert list(merged) == ["b", "a", "c"]
    merged["a"]["x"].append(1)
    merged["c"]["y"].append(1)
    assert base == {"b": 1, "a": {"x": []}}
    assert over == {"c": {"y": []}, "b": 2}
