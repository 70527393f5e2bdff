from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from archlab.cli import listing
from archlab.config import registry
from archlab.config.yaml_files import shipped_files


def drawn(what: Any) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["experiments", "search_spaces"])
def test_every_file_has_a_line_that_says_what_it_is(folder: str) -> None:
    lines = drawn(listing.experiments_table(folder, "archlab show NAME")).splitlines()
    assert lines[0].strip() == f"{folder.replace('_', ' ')}: archlab show NAME"
    described = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert set(described) == set(shipped_files(folder))
    assert all(described.values())


def test_every_component_has_a_line() -> None:
    text = drawn(listing.components_table(registry.components(), detailed=False))
    for component in registry.components():
        assert any(line.split()[:1] == [component.name] and component.summary in line for line in text.splitlines()), (
            component
        )


def test_the_details_of_a_kind() -> None:
    text = drawn(
        listing.components_table([registry.find("ema", "cema"), registry.find("mixer", "megalodon")], detailed=True)
    )
    assert "num_dims: a whole number at least 1 = 16   (a search tries 4, 8, 16, 32)" in text
    assert "ema: ema = cema" in text


def test_a_knob_has_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = "Average.\n\n    Args:\n        num_dims: The number of averages of each channel.\n    "
    cema = registry.find("ema", "cema")
    monkeypatch.setattr(registry.Component, "doc", doc)
    text = drawn(listing.components_table([cema], detailed=True))
    assert "The number of averages of each channel." in text
    assert "The number of" not in drawn(listing.components_table([cema], detailed=False))


@pytest.mark.slow
def test_every_knob_is_listed() -> None:
    text = drawn(listing.components_table(registry.components(), detailed=True))
    for component in registry.components():
        for knob in component.knobs:
            assert f"{knob}: " in text


def test_every_component_says_in_one_line_what_it_is() -> None:
    assert [f"{c.kind} {c.name}" for c in registry.components() if not c.summary.endswith(".")] == []
