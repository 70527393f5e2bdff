"""YAML that would exhaust the stack or the memory is refused by name, before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from archlab import ConfigError
from archlab.config.overrides import parse_override
from archlab.config.paths import split
from archlab.config.train_config import parse_train
from archlab.config.yaml_files import load_yaml
from archlab.config.yaml_reader import MAX_DEPTH, parse_yaml

N = 100_000


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * N + "]" * N, "a: " + "{a: " * N, "".join(" " * n + "a:\n" for n in range(1000)), "- " * N, "? " * N],
)
def test_nested_too_deeply(text: str, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"deep\.yaml: line \d+, column \d+: is nested more than {MAX_DEPTH} deep"):
        load_yaml(tmp_path / "deep.yaml")


def test_an_override_that_is_nested_too_deeply() -> None:
    with pytest.raises(ConfigError, match=r"command line: model: .* is nested more than"):
        parse_override("model=" + "[" * N)
    with pytest.raises(ConfigError, match="has more than 100 parts"):
        split(".".join("a" * 1000))
    with pytest.raises(ConfigError, match="is not a path"):
        split(f"model.layers[{'9' * 5000}]")


def test_aliases_count_as_what_they_stand_for() -> None:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\n".join(["a0: &a0 [1, 1, 1]", *rows])
    with pytest.raises(ConfigError, match="stands for more than 200,000 values"):
        parse_yaml(bomb)
    assert len(parse_yaml("\n".join(["a0: &a0 [1, 1, 1]", *rows[:2]]))["a2"]) == 9


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "9" * 5000, "-" + "9" * 40])
def test_whole_numbers_of_any_length_are_refused_in_a_short_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.steps: ") as caught:
        parse_train({"steps": parse_override(f"train.steps={value}")[1]})
    assert len(str(caught.value)) < 400
