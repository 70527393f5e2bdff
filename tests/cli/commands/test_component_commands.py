from __future__ import annotations

import json
from pathlib import Path

import pytest

from archlab.config import registry
from archlab.config.json_schema import experiment_schema
from archlab.config.yaml_files import shipped_files
from archlab.searching.space.space_schema import space_schema
from archlab.testing import checks

PEEKS = '''
from torch import Tensor, nn

from archlab import register


@register("ffn", "peeks")
class Peeks(nn.Module):
    """Looks at the next token."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(-1, 1)
'''


@pytest.mark.slow
def test_list(run) -> None:
    done = run("list")
    assert done.status == 0
    assert all(name in done.out for name in [*shipped_files(), *shipped_files("search_spaces"), *registry.kinds()])
    detailed = run("list", "ema")
    assert "num_dims: " in detailed.out
    assert "swiglu" not in detailed.out


@pytest.mark.services
def test_check(run, tmp_path: Path) -> None:
    done = run("check", "norm", "rms", "eps=0.001")
    assert done.status == 0, done.err
    assert done.out.count("passed  ") == len(checks("norm", "rms", eps=0.001)) > 10
    source = tmp_path / "peeks.py"
    source.write_text(PEEKS)
    done = run("check", "ffn", "peeks", "--plugin", str(source))
    assert done.status == 2
    assert "failed  is_causal  the first outputs that change with inputs 0, 1, ... are" in done.out
    assert done.err.startswith("archlab: ffn peeks: ")
    done = run("check", "norm", "rmss")
    assert (done.status, "did you mean 'rms'?" in done.err) == (2, True)


@pytest.mark.slow
def test_schema(run, tmp_path: Path) -> None:
    assert json.loads(run("schema").out) == experiment_schema()
    assert json.loads(run("schema", "search").out) == space_schema()
    source, out = tmp_path / "peeks.py", tmp_path / "schema.json"
    source.write_text(PEEKS)
    done = run("schema", "--plugin", str(source), "--out", "schema.json")
    assert (done.status, done.out) == (0, "")
    assert "peeks" in out.read_text()
    assert run("schema", "search", "--out", "schema.json").status == 0
    assert json.loads(out.read_text())["title"] == space_schema()["title"]
    out.write_text('{"title": "my own"}')
    refused = run("schema", "--out", "schema.json")
    message = "archlab: schema.json: is not a JSON Schema that archlab wrote; name another file\n"
    assert (refused.status, refused.err) == (2, message)
    assert out.read_text() == '{"title": "my own"}'
