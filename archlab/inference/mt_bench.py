"""MT-Bench's questions of two turns, and how a judge is asked of the answers (arXiv:2306.05685).

Questions and judge's prompts are read in the format in which the authors publish them, question.jsonl and, beside it,
judge_prompts.jsonl; where only the questions are there, the prompts are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError, one_line, why_unreadable

PROMPTS = "judge_prompts.jsonl"
_NAMES = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
_TURNS = 2
# Creative answers are sampled, as in the paper; those that are right or wrong are not.
_TEMPERATURES = {"stem": 0.1, "humanities": 0.1} | dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0)
_CREATIVE = 0.7

_SYSTEM = "You judge, impartially, what an assistant answered to a user."
_HOW = (
    "Consider how helpful, relevant, accurate, deep, creative and detailed {what} is{reference}. Give your reasons in "
    "a few sentences. Then rate it from 1 to 10, strictly in this form: [[rating]], for example: Rating: [[5]].\n\n"
)
_COMPARED = ", and compare it with the reference answer"
_FIRST = "[Question]\n{question_1}\n\n"
_SECOND = "[First question]\n{question_1}\n\n[First answer]\n{answer_1}\n\n[Second question]\n{question_2}\n\n"


@dataclass(frozen=True)
class Question:
    """Two turns of a user, and an answer to each to compare with, if there are any."""

    id: str
    category: str
    turns: Sequence[str]
    references: Sequence[str] = ()

    @property
    def temperature(self) -> float:
        """The temperature of its answers."""
        return _TEMPERATURES.get(self.category, _CREATIVE)


@dataclass(frozen=True)
class JudgePrompt:
    """Prompts of a judge; names in braces stand for questions, answers and references."""

    system: str
    template: str

    def fill(self, question: Question, answers: Sequence[str]) -> str:
        """Return the prompt of the answers so far; raise ArchlabError for a name that there is nothing for."""
        values = {"question": question.turns[0], "answer": answers[0]}
        for name, each in (("question", question.turns), ("answer", answers), ("ref_answer", question.references)):
            values |= {f"{name}_{index}": text for index, text in enumerate(each, 1)}

        def value(name: re.Match[str]) -> str:
            if name[1] not in values:
                raise ArchlabError(f"{PROMPTS}: there is nothing to put in place of {name[0]}")
            return values[name[1]]

        return re.sub(r"\{(\w+)\}", value, self.template)


def read_questions(file: Path) -> list[Question]:
    """Read question.jsonl; raise ArchlabError naming the line of what is not a question of two turns."""
    return [_question(row, place) for place, row in _rows(file)]


def _question(row: Mapping[str, Any], place: str) -> Question:
    turns, references = row.get("turns"), row.get("reference") or []
    texts: list[Any] = [*turns, *references] if isinstance(turns, list) and isinstance(references, list) else [None]
    if not all(isinstance(text, str) for text in texts) or len(texts) not in (_TURNS, 2 * _TURNS):
        raise ArchlabError(f"{place}: no question: 'turns' needs two texts, 'reference' two or none")
    return Question(str(row.get("question_id", place)), str(row.get("category", "all")), texts[:2], texts[2:])


def _rows(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    rows = list[tuple[str, Mapping[str, Any]]]()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{file}: cannot be read: {why_unreadable(error)}") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise ArchlabError(f"{file}:{number}: is no JSON: {one_line(error)}") from None
        if row is not None:
            rows.append((f"{file}:{number}", _require_object(row, f"{file}:{number}")))
    if not rows:
        raise ArchlabError(f"{file}: is empty")
    return rows


def _require_object(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ArchlabError(f"{place}: is no JSON object")
    return row


def read_prompts(questions: Path) -> tuple[Mapping[str, JudgePrompt], str]:
    """Return the prompts by name, and whose they are: those of the file beside the questions, or ours."""
    file = questions.with_name(PROMPTS)
    if not file.is_file():
        return _own_prompts(), "archlab's own"
    found = {str(row.get("name")): row for _, row in _rows(file)}
    for name in _NAMES:
        row = found.get(name, {})
        if not (isinstance(row.get("system_prompt"), str) and isinstance(row.get("prompt_template"), str)):
            raise ArchlabError(f"{file}: has no prompt {name!r} with a system_prompt and a prompt_template")
    return {name: JudgePrompt(found[name]["system_prompt"], found[name]["prompt_template"]) for name in _NAMES}, PROMPTS


def prompt_name(question: Question, turn: int) -> str:
    """Return the name of the prompt by which the answer to a turn is judged."""
    return _NAMES[turn + (_TURNS if question.references else 0)]


def _own_prompts() -> Mapping[str, JudgePrompt]:
    prompts = dict[str, JudgePrompt]()
    for index, name in enumerate(_NAMES):
        turn, has_reference = index % _TURNS, index >= _TURNS
        reference = f"[Reference answer]\n{{ref_answer_{turn + 1}}}\n\n" if has_reference else ""
        what = "the second answer" if turn else "the answer"
        how = _HOW.replace("{what}", what).replace("{reference}", _COMPARED if has_reference else "")
        asked = (_SECOND if turn else _FIRST) + reference
        prompts[name] = JudgePrompt(_SYSTEM, f"{how}{asked}[Answer to judge]\n{{answer_{turn + 1}}}\n")
    return prompts
