"""What the documentation shows works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from archlab.cli.main import cli
from archlab.config import experiment
from archlab.config.registry import Slot
from archlab.config.train_config import train_knobs
from archlab.modeling.build import build
from archlab.searching.space.load_space import load_space

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_example_component_builds_streams_and_learns(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(blocks("docs/components.md", "python")[0])
    (tmp_path / "mine.yaml").write_text(blocks("docs/components.md", "yaml")[0])
    model = build(experiment.load(str(tmp_path / "mine.yaml")).model)
    tokens = torch.randint(0, 256, (1, 9))
    whole, _ = model(tokens)
    state, parts = model.init_state(1), []
    for part in tokens.split([4, 5], dim=1):
        logits, state = model(part, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    whole.sum().backward()
    assert all(block.mixer.ema.keep.grad.isfinite().all() for block in model.blocks)


def test_the_example_experiment_and_space_are_right(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(blocks("README.md", "yaml")[0])
    assert (
        experiment.load(str(tmp_path / "mine.yaml")).model.knobs["layers"][0].knobs["mixer"].knobs["ema"].name == "s4d"
    )
    (tmp_path / "space.yaml").write_text(blocks("docs/search.md", "yaml")[0])
    assert load_space(str(tmp_path / "space.yaml")).study.trials == 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_link_exists(page: Path) -> None:
    text = page.read_text()
    for verb in re.findall(r"archlab ([a-z]+) [A-Z]", text):
        assert verb in cli.commands
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).is_file(), link


def test_the_table_of_training_settings_has_every_default() -> None:
    table = (ROOT / "docs/experiments.md").read_text().partition("## Training")[2].partition("## Tasks")[0]
    shown: dict[str, str] = {}
    for row in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        shown |= dict(zip(re.findall(r"`(\w+)`", row[0]), row[1].split(", "), strict=True))
    read = {name: experiment.parse_override(f"it={value}")[1] for name, value in shown.items()}
    defaults = {name: knob.default for name, knob in train_knobs().items()}
    assert read == {name: each.default if isinstance(each, Slot) else each for name, each in defaults.items()}
