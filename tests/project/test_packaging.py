"""The package as it is shipped: what it holds, and what importing it costs."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("archlab", "components", "search_spaces", "experiments")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed(project: dict) -> None:
    folders = {file.parent.relative_to(ROOT) for name in FOLDERS for file in (ROOT / name).rglob("__init__.py")}
    names = {".".join(folder.parts) for folder in folders}
    expected = {name if name.split(".")[0] == "archlab" else f"archlab.{name}" for name in names}
    assert set(project["tool"]["setuptools"]["packages"]) == expected


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for name in FOLDERS for file in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_every_dependency_is_pinned(project: dict) -> None:
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = project["project"]["optional-dependencies"]
    included = ("corpora", "images", "kernels", "mysql", "postgresql")
    assert f"archlab[{','.join(included)}]" in extras["dev"]
    wanted = [*project["project"]["dependencies"], *extras["dev"], *(name for key in included for name in extras[key])]
    assert [name for name in wanted if name.split(">=")[0].split("[")[0] not in {*pins, "archlab"}] == []


@pytest.mark.slow
@pytest.mark.parametrize("start", ["", "from archlab.cli.main import cli; cli(['--help'], standalone_mode=False)"])
def test_starting_does_not_import_torch(start: str) -> None:
    heavy = "{'torch', 'optuna', 'tensorboard', 'transformers'}"
    code = f"import sys\nimport archlab\n{start}\nsys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_framework_names_no_component() -> None:
    imported = {file.name: _imports(file) for file in (ROOT / "archlab").rglob("*.py")}
    assert [name for name, modules in imported.items() if any(_names_components(m) for m in modules)] == []


def _names_components(module: str) -> bool:
    return module.startswith(("archlab.components", "components."))


def _imports(file: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]


@pytest.mark.services
def test_a_wheel_holds_the_components_and_the_yaml(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "experiments" / "packaged.yaml").write_text("name: packaged\n")
    names = set(_build_wheel(tree, tmp_path).namelist())
    shipped = [file.relative_to(tree) for name in FOLDERS for file in (tree / name).rglob("*.*") if file.is_file()]
    places = {str(file) if file.parts[0] == "archlab" else f"archlab/{file}" for file in shipped}
    assert "archlab/experiments/packaged.yaml" in places
    assert places <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def _build_wheel(tree: Path, out: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "wheel", str(tree), "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("archlab-*.whl")))
