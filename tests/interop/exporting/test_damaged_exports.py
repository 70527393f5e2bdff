"""Exports that are damaged at random, and runs that were interrupted: refused by name, or read as they were written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged_json
from safetensors.torch import load_file

from archlab import ArchlabError
from archlab.config.import_file import import_file
from archlab.interop.exporting import export as exporting
from archlab.interop.exporting import weights as weight_files
from archlab.interop.exporting.exported_model import read_model

quickly = settings(
    max_examples=300 if THOROUGH else 40,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
INDEX, MANIFEST = "model.safetensors.index.json", "manifest.json"


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModuleType, dict]:
    """An export in several files, not proved here, its module and its tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "prove", lambda *arguments: "")
        patch.setattr(weight_files.write_weights, "__defaults__", (20_000,))
        out = exporting.export(trained, tmp_path_factory.mktemp("exported") / "out", ["standalone"])
    module = import_file(next(out.glob("modeling_*.py")), "modeling_to_damage")
    return out, module, dict(module.load(out).state_dict())


@pytest.fixture
def copied(exported: tuple[Path, ModuleType, dict], tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return shutil.copytree(exported[0], tmp_path / "copy")

    return copy


def load(module: ModuleType, folder: Path) -> dict[str, torch.Tensor]:
    """Return an export's tensors, none if it is refused by an error that names it."""
    try:
        return module.load(folder).state_dict()
    except ValueError as error:
        problem = str(error)
    assert str(folder) in problem
    return {}


@pytest.mark.slow
@quickly
@given(data=st.data())
def test_damaged_weights_are_refused(exported: tuple[Path, ModuleType, dict], copied: Callable[[], Path], data) -> None:
    folder, (_, module, tensors) = copied(), exported
    file = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    file.write_bytes(content)
    assert not load(module, folder)
    (folder / MANIFEST).unlink()  # as transformers' save_pretrained leaves it: nothing is known of values
    assert load(module, folder).keys() <= tensors.keys()


@pytest.mark.slow
@quickly
@given(data=st.data(), name=st.sampled_from([INDEX, MANIFEST]))
def test_damaged_json_is_refused(
    exported: tuple[Path, ModuleType, dict], copied: Callable[[], Path], data, name: str
) -> None:
    folder, (_, module, tensors) = copied(), exported
    (folder / name).write_bytes(data.draw(damaged_json((folder / name).read_bytes())))
    assert all(torch.equal(tensor, tensors[each]) for each, tensor in load(module, folder).items())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", ".", "", 7, None, ["a"]])
def test_a_name_cannot_lead_outside(
    exported: tuple[Path, ModuleType, dict], copied: Callable[[], Path], name: object
) -> None:
    folder = copied()
    shutil.copy(folder / MANIFEST, folder.parent / "secret")
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    (folder / INDEX).write_text(json.dumps({"weight_map": {**places, "head.weight": name}}))
    with pytest.raises(ValueError, match="has no file"):
        exported[1].load(folder)


@pytest.fixture
def interrupted(trained: Path, tmp_path: Path) -> Path:
    """A run that ended before it wrote its model."""
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "final")
    return run


def test_an_interrupted_run_leaves_from_its_last_checkpoint(interrupted: Path, trained: Path) -> None:
    model = read_model(interrupted)
    last = max((interrupted / "checkpoints").iterdir())
    assert model.note == f"of step {int(last.name[5:])}, the last checkpoint of a run that has not ended"
    assert model.checkpoint == last
    assert model.origin["step"] == int(last.name[5:])
    expected = load_file(last / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.tensors.items())
    assert read_model(trained).note == ""
    assert read_model(trained / "checkpoints" / last.name).note == ""
    assert model.load().training is False


def test_a_damaged_checkpoint_does_not_leave(interrupted: Path) -> None:
    for checkpoint in (interrupted / "checkpoints").iterdir():
        file = checkpoint / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArchlabError, match=r"no checkpoint is intact: step_\d+: model\.safetensors has \d+ bytes"):
        read_model(interrupted)
