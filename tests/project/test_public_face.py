"""`import archlab` is light, typed, and gives what it lists."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import archlab

VERBS = (
    "check",
    "evaluate",
    "export",
    "fit",
    "generate",
    "import_checkpoint",
    "load",
    "load_model",
    "report",
    "run_ladder",
    "search",
    "show",
    "train",
    "watch",
)


def test_every_public_name_is_there_and_documented() -> None:
    for name in archlab.__all__:
        found = getattr(archlab, name)
        assert name in dir(archlab)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__doc__, name


def test_type_checkers_see_the_same_names_as_programs() -> None:
    tree = ast.parse(Path(archlab.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(archlab.__all__)


def test_no_subpackage_takes_the_place_of_a_function() -> None:
    rooms = {path.name for path in Path(archlab.__file__).parent.iterdir() if path.is_dir()}
    assert rooms & set(archlab.__all__) == {"interop"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = archlab.trian


@pytest.mark.parametrize("name", VERBS)
def test_no_any_in_a_verb(name: str) -> None:
    signature = inspect.signature(getattr(archlab, name))
    written = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
    assert not any("Any" in str(annotation) for annotation in written)


@pytest.mark.slow
def test_importing_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'optuna', 'numpy', 'rich'}"
    code = f"import sys, archlab; archlab.load; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_experiment_may_be_data(tiny) -> None:
    data = tiny().resolved
    assert archlab.load(data).resolved == data
    assert archlab.load(tiny(), ["train.steps=3"]).train.steps == 3
    with pytest.raises(archlab.ConfigError, match=r"experiment: model\.dim: 'x' is not"):
        archlab.load({**data, "model": {**data["model"], "dim": "x"}})
    with pytest.raises(archlab.ConfigError, match="cannot be written as YAML"):
        archlab.load({"model": object()})
