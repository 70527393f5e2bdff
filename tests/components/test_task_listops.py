"""Expressions of ListOps are evaluated by an independent calculator that reads one token at a time."""

import statistics

import pytest

from archlab import ArchlabError
from archlab.components.task.listops import ListOps
from archlab.data.listops import VOCABULARY

SHORT = {"max_depth": 5, "max_args": 4, "min_length": 3, "max_length": 60, "eval_size": 50}
CALCULATE = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda numbers: int(statistics.median(numbers)),
    "[SM": lambda numbers: sum(numbers) % 10,
}


def text(row):
    return [VOCABULARY[token] for token in row if token]


def calculate(tokens):
    """Return an expression's value, its depth, and the numbers of arguments in it."""
    stack, deepest, counts = [[]], 1, []
    for token in tokens:
        if token in CALCULATE:
            stack.append([token])
            deepest = max(deepest, len(stack))
        elif token == "]":
            operator, *numbers = stack.pop()
            counts.append(len(numbers))
            stack[-1].append(CALCULATE[operator](numbers))
        else:
            stack[-1].append(int(token))
    ((found,),) = stack
    return found, deepest, counts


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(("knobs", "context"), [(SHORT, 59), (SHORT, 80), ({}, 2000)])
def test_digits_are_what_expressions_come_to(split, knobs, context):
    task = ListOps(**knobs)
    inputs, digits = task.batch(split, 0, 20, context, 0)
    for row, digit in zip(inputs.tolist(), digits.tolist(), strict=True):
        tokens = text(row)
        assert row[: context - len(tokens)] == [0] * (context - len(tokens))
        assert task.min_length < len(tokens) < task.max_length
        found, deepest, counts = calculate(tokens)
        assert found == digit
        assert deepest <= task.max_depth
        assert 2 <= min(counts) <= max(counts) <= task.max_args


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        ("[MED 1 2 ]", 1),
        ("[MED 9 0 4 ]", 4),
        ("[MED 0 9 8 1 ]", 4),
        ("[SM 9 9 9 ]", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]", 5),
    ],
)
def test_the_calculator_agrees_with_the_papers(tokens, value):
    assert calculate(tokens.split())[0] == value


def test_every_operator_depth_and_digit_occurs():
    inputs, digits = ListOps(**SHORT).batch("train", 0, 600, 59, 0)
    found = [calculate(text(row)) for row in inputs.tolist()]
    assert set(inputs.unique().tolist()) == set(range(len(VOCABULARY)))
    assert {deepest for _, deepest, _ in found} == {2, 3, 4, 5}
    assert {count for *_, counts in found for count in counts} == {2, 3, 4}
    assert set(digits.tolist()) == set(range(10))


@pytest.mark.slow
def test_what_cannot_be_used_is_named():
    assert (ListOps().num_outputs, ListOps().vocab_size, ListOps().per_sample) == (10, 16, True)
    with pytest.raises(ValueError, match="no length is more than min_length 5 and less than max_length 6"):
        ListOps(min_length=5, max_length=6)
    with pytest.raises(
        ArchlabError, match=r"expressions of 1999 tokens \(max_length - 1\) do not fit in train.context 1"
    ):
        ListOps().check(1998)
    with pytest.raises(ArchlabError, match="almost no expressions have 500 to 2000 tokens, max_depth 2, max_args 10"):
        ListOps(max_depth=2).check(2000)
