from __future__ import annotations

from archlab.config.docstrings import argument_meanings


def test_the_entries_of_args() -> None:
    doc = """Average.

    x: [B, T, D] -> [B, T, D].

    Args:
        num_dims: The number of averages
            of each channel.
        bias (bool): Whether to add: a bias.

    Raises:
        ValueError: never.
    """
    assert argument_meanings(doc) == {
        "num_dims": "The number of averages of each channel.",
        "bias": "Whether to add: a bias.",
    }


def test_a_docstring_without_args() -> None:
    assert argument_meanings("Average.\n\n    x: [B, T].") == {}
    assert argument_meanings("") == {}
