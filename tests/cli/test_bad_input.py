"""YAML that is wrong in any way ends in one line that a person can act on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import THOROUGH

from archlab import ArchlabError
from archlab.config import experiment
from archlab.config.overrides import format_override
from archlab.config.yaml_files import shipped_files
from archlab.modeling.cost import estimate_cost
from archlab.searching.space.load_space import load_space
from archlab.text import HIDDEN

ODD = [
    None,
    True,
    -1,
    0,
    1,
    3,
    7.5,
    1e300,
    float("nan"),
    float("inf"),
    10**15,
    "",
    "off",
    "${nowhere}",
    "${",
    "no such",
    [],
    {},
    [1],
    {"type": "rms"},
    {"a": {"b": []}},
    "2001-01-01",
    b"\xff",
    "rms",
    [[]],
    {1: 2},
    {"type": None},
    "???",
    "0100",
    "12:30:45",
    "\\${name}",
    "${name}",
    "${.}",
    "[red]\x1b[31m\u202e",
    "a\nb\r\x00",
    "\ud800",
    "x" * 5000,
    "/" * 300,
    2**70,
    -0.0,
    [None] * 3,
    {"<<": 1, "a.b": 2},
]
PATHS = ["description", "name", "train", "train.lr", "train.steps", "train.compile", "task.type", "task", "model"]
PATHS += ["model.layers[0].mixer", "model.layers[*].norm", "model.layers[0].repeat", "plugins", "trian.x"]
KEYS = ["tpye", 7, None, True, "a.b", "a[0]", "", " ", "<<", "\x1b", "\ud800", "${name}", "x" * 300]
# What YAML itself can do, as text: each may stand where any value does.
SYNTAX = [
    "*nowhere", "&a [*a]", "!!python/object/apply:os.system [x]", "!mine x", "!!binary aa==", "!!set {a}", "!!int x",
    "<<", "=", "~", "'", '"', "|", ">-", "%YAML", "@x", "`x", "- x", "? x", "[", "{a", "{a: 1, a: 2}",
    "[" * 800, "{<<: 1}",
    "0o17", "1_000", "1__0", "+1", "1.", ".5", "1e400", "0x1F", "9" * 5000, ".NaN", "2001-01-01",
    "yes", '"\\ud800"',
    '"\\U00110000"', "\x85", "\u2028", "\ufeff", "#", "a: b", "--- x", "...",
]  # fmt: skip


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(p for key, value in entries for p in places(value, (*path, key)))]


def mutate(tree: Any, rng: random.Random) -> Any:
    path = rng.choice([p for p in places(tree) if p])
    owner = tree
    for key in path[:-1]:
        owner = owner[key]
    kind = rng.choice(["value", "value", "key", "drop", "double"])
    if kind == "value" or isinstance(owner, list):
        owner[path[-1]] = rng.choice(ODD)
    elif kind == "key":
        owner[rng.choice([f"{path[-1]}s", *KEYS])] = owner.pop(path[-1])
    elif kind == "drop":
        owner.pop(path[-1])
    else:
        owner[path[-1]] = owner
    return tree


def garble(text: str, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data))
        data[place : place + rng.randint(0, 3)] = rng.choice(
            [b"", b":", b"{", b"\t", b"\xff", b"\x00", b"&a", b"*a", b"- ", b"\xc2\x85", b"\xef\xbb\xbf", b"\r", b"!"]
        )
    return bytes(data)


def with_syntax(tree: Any, rng: random.Random) -> str:
    """Return YAML in which one value is a piece of syntax."""
    path = rng.choice([p for p in places(tree) if p])
    owner = tree
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = "PLACE"
    return yaml.dump(tree, width=10_000, default_flow_style=rng.choice([False, True])).replace(
        "PLACE", rng.choice(SYNTAX), 1
    )


def count(file: Path) -> None:
    estimate_cost(experiment.load(str(file)))


def outcome(file: Path, use: Callable[[Path], object] = count) -> str:
    try:
        use(file)
    except ArchlabError as error:
        message = str(error)
        assert message
        assert not HIDDEN.search(message)
        assert len(message) <= 1000
        assert file.name in message, message
        return re.sub(r"'.*?'|\d+", "", message)  # its kind, without the value
    return "fine"


def check_again(file: Path) -> None:
    """Resolve an experiment, and see that what it writes is the same experiment."""
    found = experiment.load(str(file))
    file.with_name("again.mutant.yaml").write_text(found.to_yaml(), "utf-8")
    assert experiment.load(str(file.with_name("again.mutant.yaml"))).to_yaml() == found.to_yaml()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["megalodon_tiny", "quickstart", *["mega_tiny", "llama2_tiny"] * THOROUGH])
def test_mutated_values(name: str, tmp_path: Path) -> None:
    rng, file, seen = random.Random(name), tmp_path / "mutant.yaml", set()
    for _ in range(60):
        tree = yaml.safe_load(shipped_files()[name].read_text())
        try:
            file.write_text(yaml.dump(mutate(tree, rng)))
        except RecursionError:
            continue
        seen.add(outcome(file, rng.choice([count, count, check_again])))
    assert len(seen) > 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experiments", "search_spaces"])
def test_syntax_anywhere(kind: str, tmp_path: Path) -> None:
    rng, file, seen = random.Random(kind), tmp_path / "mutant.yaml", set()
    use = check_again if kind == "experiments" else lambda file: load_space(str(file))
    for _ in range(60):
        tree = yaml.safe_load(shipped_files(kind)["quickstart"].read_text())
        file.write_text(with_syntax(tree, rng), "utf-8")
        seen.add(outcome(file, use))
    assert len(seen) > 15


@pytest.mark.slow
def test_hostile_overrides() -> None:
    """A value on the command line is refused by its path, or is the value that it was written as."""
    rng, seen = random.Random("overrides"), set()
    for _ in range(150):
        path, value = rng.choice(PATHS), rng.choice([*SYNTAX, *ODD])
        override = f"{path}={value}" if value in SYNTAX else None
        try:
            override = override or format_override(path, value)
            found = experiment.load("quickstart", [override])
        except ArchlabError as error:
            message = str(error)
            assert not HIDDEN.search(message)
            assert len(message) <= 1000
            assert path.partition("[")[0].partition(".")[0] in message or "cannot be written" in message, message
            seen.add(re.sub(r"'.*?'|\d+", "", message))
            continue
        if path == "description" and isinstance(value, str) and "${" not in value:
            assert found.description == ("" if value == "~" else yaml.safe_load(value) if value[0] in "\"'" else value)
    assert len(seen) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["megalodon_tiny", "llama2_tiny"])
def test_garbled_text(name: str, tmp_path: Path) -> None:
    rng, file, seen = random.Random(name), tmp_path / "mutant.yaml", set()
    for _ in range(60):
        file.write_bytes(garble(shipped_files()[name].read_text(), rng))
        seen.add(outcome(file))
    assert len(seen) > 15


@pytest.mark.slow
def test_mutated_search_spaces(tmp_path: Path) -> None:
    rng, file, seen = random.Random("space"), tmp_path / "mutant.yaml", set()
    for _ in range(60):
        tree = yaml.safe_load(shipped_files("search_spaces")["quickstart"].read_text())
        try:
            file.write_text(yaml.dump(mutate(tree, rng)))
        except RecursionError:
            continue
        seen.add(outcome(file, lambda file: load_space(str(file))))
    assert len(seen) > 15


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.layers[0].mixer=megaa"],
            "command line: model.layers[0].mixer: no mixer 'megaa'; did you mean 'mega'?",
        ),
        (
            ["model.layers[0].mixer.ema.ndims=4"],
            "model.layers[0].mixer.ema: unknown knob 'ndims' of 'cema'; did you mean",
        ),
        (["train.lr=fast"], "command line: train.lr: 'fast' is not a number"),
        (["train.lr=-1"], "train.lr: -1.0 is not above 0"),
        (["train.steps=1.5"], "train.steps: 1.5 is not a whole number"),
        (["train.compile=blok"], "train.compile: 'blok' is not one of its values; did you mean 'block'?"),
        (["trian.lr=1"], "command line: unknown key 'trian'; did you mean 'train'?"),
        (["model.dim=100"], "model.layers[0].norm: timestep: dim 100 is not divisible by num_groups 8"),
        (["model.vocab_size=100"], "model.vocab_size: 100 is less than the 256 tokens of the task"),
        (["model.layers[3].mixer=mega"], "command line: model.layers[3].mixer: [3] is past the end of a list of 1"),
        (["model.layers[0].repeat=100000"], "more than 4096 layers"),
        (["train.lr"], "command line: train.lr: is not an override; write path=value"),
        (["a..b=1"], "is not a path"),
        (["train=false"], "command line: train: False is not a mapping of settings"),
        (["model.layers[0].ffn={type: ''}"], "model.layers[0].ffn: no ffn ''"),
        (["name=../elsewhere"], "command line: name: '../elsewhere' cannot name a folder"),
        ([f"name={'ö' * 130}"], "cannot name a folder: it is longer than "),
        (["train.base_model=16"], "train.base_model: 16 is not a mapping of texts to a whole number at least 1"),
        (["train.base_model={1: 16}"], "train.base_model: {1: 16} is not a mapping of texts to a whole number"),
        (["description=0"], "command line: description: 0 is not a text"),
    ],
)
def test_overrides(overrides: list[str], message: str) -> None:
    with pytest.raises(ArchlabError) as caught:
        estimate_cost(experiment.load("megalodon_tiny", overrides))
    assert message in str(caught.value)


def test_a_file_that_extends_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ArchlabError, match="base: 'a' extends itself"):
        experiment.load(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(("key", "value"), [("plugins", "0"), ("vary", "0"), ("override", "''"), ("constraints", "0")])
def test_an_empty_value_of_a_space_is_not_nothing(key: str, value: str, tmp_path: Path) -> None:
    space = {"base": "llama2_tiny", "vary": {"train.lr": [1e-3]}, key: yaml.safe_load(value)}
    (tmp_path / "odd.yaml").write_text(yaml.dump(space))
    with pytest.raises(ArchlabError, match=rf"odd\.yaml: {key}: "):
        load_space(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize(("key", "value"), [("plugins", "0"), ("plugins", "''"), ("override", "[]"), ("override", "0")])
def test_an_empty_value_of_another_kind_is_not_nothing(key: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(f"base: llama2_tiny\n{key}: {value}\n")
    with pytest.raises(ArchlabError, match=rf"odd\.yaml: {key}: "):
        experiment.load(str(tmp_path / "odd.yaml"))
