import random
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_helpers import write_space

from archlab import ConfigError
from archlab.searching.sampling.suggest import suggest
from archlab.searching.sampling.suggest_pattern import suggest_pattern
from archlab.searching.space.load_space import load_space
from archlab.searching.space.pattern_yaml import parse_pattern
from archlab.searching.space.search_space import Space
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.letter_counts import allowed_pattern, count_patterns
from archlab.searching.variants.pattern import Pattern, PatternValue, parse_value, positions

LETTERS = {"a": {"mixer": "attention"}, "m": {"mixer": {"type": "mamba2", "state_dim": 4, "head_dim": 8}}}
OF = {"of": LETTERS, "period": 3}


def space_of(folder: Path, vary: dict[str, Any], **asked: Any) -> Space:
    return load_space(write_space(folder, vary=vary, **asked))


def ask(space: Space, seed: int = 0) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return suggest(study.ask(), space.varied, space.base)


def mixers(space: Space, values: dict[str, Any]) -> list[str]:
    model = apply_values(space.varied, values, space.base, "trial").resolve().model
    return [layer.knobs["mixer"].name for layer in model.knobs["layers"] for _ in range(layer.repeat)]


@st.composite
def limits_and_wish(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], str]:
    """Draw bounds that some pattern meets, and a wished pattern: of a small space, or of one too large for a table."""
    letters, period = draw(st.sampled_from([(2, 1), (2, 7), (3, 5), (4, 3), (2, 16), (4, 9)]))
    least = [draw(st.integers(0, period // letters)) for _ in range(letters)]
    most = [draw(st.integers(max(low, -(-period // letters)), period)) for low in least]
    limits = dict(zip("abcd", zip(least, most, strict=True), strict=False))
    return limits, draw(st.text("".join(limits), min_size=period, max_size=period))


@settings(max_examples=40)
@given(limits_and_wish())
def test_what_is_suggested_is_allowed(asked: tuple[dict[str, tuple[int, int]], str]) -> None:
    limits, wished = asked
    pattern = allowed_pattern(wished, limits)
    assert len(pattern) == len(wished)
    assert all(low <= pattern.count(letter) <= high for letter, (low, high) in limits.items())
    assert allowed_pattern(wished, limits) == pattern


def test_what_is_wished_is_suggested_where_all_is_allowed() -> None:
    for wished in ("ammam", "ammammmammmammmamm"):
        assert allowed_pattern(wished, {"a": (0, 18), "m": (0, 18)}) == wished


@pytest.mark.parametrize("limits", [{"a": (1, 1), "m": (0, 6)}, {"a": (1, 3), "g": (0, 1), "m": (0, 6)}])
def test_random_search_is_fair_to_all_allowed_patterns(limits: dict[str, tuple[int, int]]) -> None:
    wished = ["".join(letters) for letters in product(limits, repeat=6)]
    allowed = [w for w in wished if all(low <= w.count(x) <= high for x, (low, high) in limits.items())]
    assert count_patterns(tuple(limits.values()), 6) == len(allowed)
    shares = Counter(allowed_pattern(one, limits) for one in wished)
    assert set(shares) == set(allowed)
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.slow
def test_long_patterns_are_about_equally_likely() -> None:
    limits = {"a": (0, 1), "m": (0, 20)}  # 21 patterns, of a million wished ones
    chance = random.Random(0)
    shares = Counter(allowed_pattern("".join(chance.choices("am", k=20)), limits) for _ in range(2000))
    assert len(shares) == 21
    assert 50 < min(shares.values()) <= max(shares.values()) < 150


def test_operators_and_depths() -> None:
    assert positions(3, 6, "stack") == [0, 1, 2, 0, 1, 2]
    assert positions(3, 6, "stretch") == [0, 0, 1, 1, 2, 2]
    assert positions(3, 7, "stack") == [0, 1, 2, 0, 1, 2, 0]
    assert positions(2, 5, "stretch") == [0, 0, 0, 1, 1]


@settings(max_examples=20)
@given(st.text("am", min_size=3, max_size=3), st.sampled_from(["stack", "stretch"]), st.none() | st.integers(1, 99))
def test_values_are_read_as_they_are_written(letters: str, operator: str, depth: int | None) -> None:
    pattern = parse_pattern(OF, "p")
    value = PatternValue(letters, operator, depth)
    assert parse_value(str(value), pattern, "p") == value


def test_a_pattern_is_layers_of_the_base_with_what_its_letters_set(tmp_path: Path) -> None:
    pattern = {**OF, "layer": {"ffn": {"hidden_dim": 24}}, "operator": ["stack", "stretch"], "repeats": 2}
    space = space_of(tmp_path, {"model.layers": {"pattern": pattern}})
    values = {"model.layers": "amm, stack"}
    raw = apply_values(space.varied, values, space.base, "trial")
    assert [entry.get("repeat", 1) for entry in raw.get("model.layers")] == [1, 2, 1, 2]
    assert raw.get("model.layers[0].ffn") == {"type": "swiglu", "hidden_dim": 24}
    assert mixers(space, values) == ["attention", "mamba2", "mamba2"] * 2
    assert mixers(space, {"model.layers": "amm, stretch"}) == ["attention"] * 2 + ["mamba2"] * 4


def test_a_letter_may_name_its_layer_s_type_and_letters_have_knobs_of_their_own(tmp_path: Path) -> None:
    of = {letter: {"type": "block", **layer} for letter, layer in LETTERS.items()}
    vary = {
        "model.layers": {"pattern": {"of": of, "period": 2, "at_least": {"a": 1, "m": 1}}},
        "model.layers[a].mixer.num_heads": [2],
        "model.layers[m].mixer.state_dim": [8],
    }
    space = space_of(tmp_path, vary)
    values = ask(space)
    layers = apply_values(space.varied, values, space.base, "trial").resolve().model.knobs["layers"]
    found = {layer.knobs["mixer"].name: layer.knobs["mixer"].knobs for layer in layers}
    assert (found["attention"]["num_heads"], found["mamba2"]["state_dim"]) == (2, 8)


def test_another_experiment_keeps_its_depth_and_its_widths(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"model.layers": {"pattern": OF}})
    layer = {"repeat": 7, **space.base.get("model.layers")[0], "ffn": {"type": "swiglu", "hidden_dim": 99}}
    large = space.base.override({"model.layers": [layer]}, "large")
    there = apply_values(space.varied, {"model.layers": "amm, stack"}, large, "trial", keep_depth=True).resolve()
    layers = [entry for entry in there.model.knobs["layers"] for _ in range(entry.repeat)]
    assert [entry.knobs["mixer"].name[0] for entry in layers] == list("ammamma")
    assert {entry.knobs["ffn"].knobs["hidden_dim"] for entry in layers} == {99}


def test_knobs_of_a_letter_exist_where_it_stands(tmp_path: Path) -> None:
    vary = {
        "model.layers[m].mixer.state_dim": [4, 8],
        "model.layers": {"pattern": {**OF, "at_least": {"a": 1}}},
    }
    space, seen = space_of(tmp_path, vary), set()
    for seed in range(12):
        values = ask(space, seed)
        letters = values["model.layers"].partition(",")[0]
        assert "a" in letters
        assert ("model.layers[m].mixer.state_dim" in values) == ("m" in letters)
        raw = apply_values(space.varied, values, space.base, "trial")
        seen |= {raw.get(f"{place}.mixer.state_dim") for place in raw.expand("model.layers[*]")}
    assert seen == {None, 4, 8}


class Scripted:
    """A trial that suggests the letters of a pattern."""

    def __init__(self, letters: str) -> None:
        self.letters, self.offered = letters, list[list[str]]()

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.offered.append(choices)
        at = int(name.partition(".pattern[")[2].partition("]")[0])
        return self.letters[at]


def test_brute_force_is_offered_letters_that_can_be_completed() -> None:
    pattern = parse_pattern({**OF, "at_most": {"a": 1}}, "p")
    trial: Any = Scripted("amm")
    assert suggest_pattern(trial, "p", pattern, exhaustive=True) == "amm, stack"
    assert trial.offered == [["a", "m"]]  # after an a there is no other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": {"a": {}}}, "pattern.of: is not a mapping of two or more letters"),
        ({"of": {"a": {}, "mm": {"dropout": 0.1}}}, "pattern.of: 'mm' is not one letter"),
        ({"of": {"a": {}, "b": {}}}, "pattern.of.b: is the same layer as a"),
        (
            {"of": {"a": {}, "b": {"mixr": "gla"}}},
            "pattern.of.b: unknown knob 'mixr' of 'block'",
        ),
        ({"of": {"a": {}, "b": {"mixer": "gal"}}}, r"pattern.of.b.mixer: no mixer 'gal'; did you mean"),
        ({"of": {"a": {}, "b": {"repeat": 2}}}, "pattern.of.b: repeat is determined by the pattern"),
        ({"period": 0}, "pattern.period: 0 is not"),
        ({"perod": 3}, "unknown key 'perod'; did you mean 'period'"),
        ({"at_least": {"a": 2, "m": 2}}, "at_least: asks for 4 layers of a period of 3"),
        ({"at_most": {"a": 1, "m": 1}}, "at_most: allows 2 layers of a period of 3"),
        ({"at_least": {"x": 2}}, "at_least: no letter 'x'"),
        ({"at_least": {"a": 3}, "at_most": {"a": 2}}, "at_least.a: 3 is more than the 2"),
        ({"operator": "stak"}, "operator: 'stak' is neither stack nor stretch"),
        ({"depth": 8}, "depth: 8 is not a multiple of the period 3; 9 is"),
        ({"depth": 6, "repeats": 2}, "depth: and repeats say the same"),
        ({"repeats": 2000}, "pattern: 6000 layers are more than 4096"),
        ({"of": {"a": "attention", "m": {}}}, "pattern.of.a: 'attention' is not a mapping of a layer's knobs"),
        ({"at_most": [1]}, r"pattern.at_most: \[1\] is not a mapping of letters to numbers of layers"),
        ({"operator": []}, r"operator: \[\] names an operator twice, or none"),
        ({"operator": ["stack", "stack"]}, "operator: .* names an operator twice"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(tmp_path, {"model.layers": {"pattern": {**OF, **change}}})


@pytest.mark.parametrize(
    ("path", "domain", "message"),
    [
        ("model.layers", {"pattern": "am"}, "vary.model.layers.pattern: 'am' is not a mapping with of and period"),
        (
            "model.layers",
            {"pattern": {"of": LETTERS}},
            "pattern.period: is missing: the number of letters of a pattern",
        ),
        ("model.layers", {"pattern": OF, "low": 3}, "vary.model.layers: pattern stands alone, without 'low'"),
        ("model.layers[*]", {"pattern": OF}, r"vary.model.layers\[\*\]: a pattern is of one list of layers"),
    ],
)
def test_what_is_no_pattern_is_refused(tmp_path: Path, path: str, domain: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(tmp_path, {path: domain})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aam", "p: 'aam' is not a pattern such as 'aam, stack'"),
        (["a"], r"p: \['a'\] is not a pattern such as"),
        ("aamm, stack", "p: 'aamm' is not a pattern of 3 letters of a, m"),
        ("axm, stack", "p: 'axm' is not a pattern of 3 letters of a, m"),
    ],
)
def test_a_stored_value_that_the_pattern_does_not_have_is_refused(text: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_value(text, parse_pattern(OF, "p"), "p")


def test_a_letter_that_no_pattern_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[x\] is not a layer of a pattern of model.layers; its letters are a, m"):
        space_of(tmp_path, {"model.layers": {"pattern": OF}, "model.layers[x].mixer.num_heads": [1, 2]})
    with pytest.raises(ConfigError, match="is not a list of layers"):
        space_of(tmp_path, {"model.dim": {"pattern": OF}})


def test_a_pattern_counts_its_allowed_ones() -> None:
    pattern = parse_pattern({**OF, "at_most": {"a": 1}}, "p")
    assert isinstance(pattern, Pattern)
    assert pattern.num_patterns == 4
