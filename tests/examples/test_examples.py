"""Each example runs as it stands, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.services
def test_a_component_of_ones_own_is_trained_and_its_export_read_without_archlab(tmp_path: Path) -> None:
    assert "validation loss" in run("own_component.py", tmp_path)
    script = str(EXAMPLES / "read_export.py")
    code = f"import sys, runpy; sys.modules['archlab'] = None; runpy.run_path({script!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, str(tmp_path / "export")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "b'def main(' read in two pieces gives the logits of one\ncontinued with b" in done.stdout


@pytest.mark.services
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train_from_python.py", "did you mean 'cema'?"),
        ("search_two_objectives.py", "Pareto front: trials ["),
    ],
)
def test_an_example_runs(name: str, said: str, tmp_path: Path) -> None:
    assert said in run(name, tmp_path / "out")


@pytest.mark.services
def test_any_folder_of_text_is_prepared_and_trained_on(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "text" / str(number % 7)).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{n} times {number} is {n * number}, grüne Ente.\n" for n in range(40))
        (tmp_path / "text" / str(number % 7) / f"{number}.txt").write_text(lines)
    said = run("prepare_a_folder.py", tmp_path / "text", tmp_path / "out")
    assert "tokens of 300 documents in " in said
    assert "bits per byte after 6 steps" in said


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert [file.name for file in EXAMPLES.glob("*.py") if f"[{file.name}]" not in listed] == []
