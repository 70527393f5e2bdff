"""The settings that make a process fast are made where they help, and can be turned off."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from archlab import matrix_products, process
from archlab.errors import ConfigError
from archlab.matrix_products import STOCK, Way, choose, ways

PROBE = """
import json, os, sys
from archlab.process import restart_tuned
restart_tuned()
print(json.dumps([dict(os.environ), sys.argv[1:], os.getpid()]))
"""


def environment(folder: Path, *arguments: str, script: str = "archlab", **variables: str) -> dict[str, str]:
    """Return the environment in which a script of this name and arguments goes on."""
    (folder / script).write_text(PROBE)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, str(folder / script), *arguments]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=True)
    found, passed, _ = json.loads(done.stdout)
    assert passed == list(arguments)
    return found


@pytest.mark.skipif(not process.wanted().keys() & process.ALLOCATOR.keys(), reason="not glibc: no allocator settings")
def test_a_command_that_computes_begins_with_the_settings(tmp_path: Path) -> None:
    found = environment(tmp_path, "train", "name with a space", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert process.ALLOCATOR.items() <= found.items()
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "archlab" / "inductor")


@pytest.mark.parametrize(
    ("arguments", "script", "variables"),
    [
        (("list",), "archlab", {}),
        (("train",), "other", {}),
        (("train",), "archlab", {"ARCHLAB_TUNE": "off"}),
    ],
)
def test_others_are_left_alone(
    arguments: tuple[str, ...], script: str, variables: dict[str, str], tmp_path: Path
) -> None:
    assert not process.ALLOCATOR.keys() & environment(tmp_path, *arguments, script=script, **variables).keys()


def test_what_a_user_has_set_is_theirs(tmp_path: Path) -> None:
    given = {"MALLOC_TOP_PAD_": "1", "TORCHINDUCTOR_CACHE_DIR": "/mine"}
    assert given.items() <= environment(tmp_path, "train", **given).items()


def test_a_cache_that_cannot_be_made_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert process.compile_cache() is None
    assert "TORCHINDUCTOR_CACHE_DIR" not in process.wanted()


def test_a_switch_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TUNE", "of")
    with pytest.raises(ConfigError, match="'of' is neither on nor off"):
        process.tuned()


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        (Way("bf16", 1e-7, 2e11), "bf16"),
        (Way("bf16", 2e-3, 9e11), STOCK),  # it rounds
        (Way("bf16", 1e-7, 1.05e11), STOCK),  # it gains nothing
    ],
)
def test_the_fastest_exact_product_is_taken(other: Way, taken: str) -> None:
    assert choose((Way(STOCK, 1e-7, 1e11), other)) == taken


def test_measuring_leaves_the_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    ways.cache_clear()
    assert [way.name for way in ways()] == [STOCK, *matrix_products.OFFERED]
    assert ways()[0].error < matrix_products.LARGEST_ERROR
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_products_are_left_alone_where_tuning_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TUNE", "off")
    monkeypatch.setattr(matrix_products, "ways", lambda: pytest.fail("measured"))
    assert matrix_products.settle_matrix_products.__wrapped__() == STOCK
