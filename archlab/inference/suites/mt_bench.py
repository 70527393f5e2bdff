"""MT-Bench: answers to questions of two turns, rated by a model behind an endpoint (arXiv:2306.05685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from archlab.config.experiment import Experiment
from archlab.data.tokenizers import SEPARATOR
from archlab.data.tokenizers.special_tokens import special_tokens
from archlab.errors import ArchlabError
from archlab.inference.judge import Judge, rating_in
from archlab.inference.mt_bench import Question, prompt_name, read_prompts, read_questions
from archlab.inference.prompts import Generation, Prompt, Settings
from archlab.inference.suite import (
    Estimate,
    Setting,
    SuiteProgress,
    SuiteRequest,
    SuiteResult,
    estimate_of_items,
)
from archlab.inference.text_model import TextModel

_MOST_TOKENS, _BATCH, _TURNS = 1024, 8, 2
# As Vicuna writes a conversation; an answer ends with the token that ends a text, or else with its line.
_USER, _ASSISTANT, _END = "USER: ", "ASSISTANT: ", "\n"
_Ratings: TypeAlias = list[float | None]


def run_mt_bench(
    model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
) -> SuiteResult:
    """Return the mean rating of all answers, of each turn and of each category.

    Raises ArchlabError before anything is written where there is no judge, and for questions that are none.
    """
    request.require_only("mt-bench", "questions", "limit", "max_tokens", "batch_size")
    if request.questions is None:
        raise ArchlabError("the suite mt-bench needs --questions FILE, MT-Bench's question.jsonl")
    questions = read_questions(request.questions)[: request.limit]
    prompts, origin = read_prompts(request.questions)
    judge = Judge.from_environment()
    answers, tokens = _answers(TextModel(experiment, model), questions, request, progress)
    records, ratings = list[Mapping[str, object]](), list[_Ratings]()
    for index, (question, given) in enumerate(zip(questions, answers, strict=True)):
        progress("judging", index, len(questions))
        chosen = [prompts[prompt_name(question, turn)] for turn in range(_TURNS)]
        said = [judge.ask(each.system, each.fill(question, given[: turn + 1])) for turn, each in enumerate(chosen)]
        ratings.append([rating_in(each) for each in said])
        records.append({"question": question.id, "category": question.category, "answers": given, "judgments": said})
    settings: dict[str, Setting] = {
        "questions": len(questions),
        "judge": judge.model,
        "judge_prompts": origin,
        "turns": f"{_USER.strip()} and {_ASSISTANT.strip()}",
        "most_tokens_of_an_answer": request.max_tokens or _MOST_TOKENS,
    }
    figures = dict(_figures(questions, ratings))
    return SuiteResult("mt-bench", settings, tokens, (), figures, _notes(ratings), {}, records)


def _answers(
    model: TextModel, questions: Sequence[Question], request: SuiteRequest, progress: SuiteProgress
) -> tuple[list[list[str]], int]:
    """Return the answers to each question's turns, and how many tokens were read and written."""
    end = special_tokens(model.task.model_tokens()).eos
    stop = (f"\n{_USER.strip()}", end or SEPARATOR.decode())
    settings = Settings(request.max_tokens or _MOST_TOKENS, stop=stop)
    texts, answers, tokens = [""] * len(questions), [list[str]() for _ in questions], 0
    for turn in range(_TURNS):
        texts = [f"{text}{_USER}{each.turns[turn]}\n{_ASSISTANT}" for text, each in zip(texts, questions, strict=True)]
        prompts = [_prompt(index, text, questions[index]) for index, text in enumerate(texts)]
        batch = model.batch(prompts, settings, request.batch_size or _BATCH)
        for index, written in enumerate(batch):
            progress(f"answering turn {turn + 1}", index, len(questions))
            answers[index].append(written.text.strip())
            tokens += _num_tokens(model, written)
        texts = [f"{text}{given[turn]}{end or _END}" for text, given in zip(texts, answers, strict=True)]
    return answers, tokens


def _prompt(index: int, text: str, question: Question) -> Prompt:
    return Prompt(text, seed=index, temperature=question.temperature, source=f"question {question.id}")


def _num_tokens(model: TextModel, written: Generation) -> int:
    return len(model.encode(written.prompt.text)) + len(written.tokens)


def _figures(questions: Sequence[Question], ratings: Sequence[_Ratings]) -> Iterator[tuple[str, Estimate]]:
    """Yield mean ratings, with intervals over questions."""
    yield from _mean("all", ratings)
    for turn in range(_TURNS):
        yield from _mean(f"turn {turn + 1}", [[each[turn]] for each in ratings])
    for category in dict.fromkeys(question.category for question in questions):
        of_it = [each for question, each in zip(questions, ratings, strict=True) if question.category == category]
        yield from _mean(category, of_it)


def _mean(name: str, ratings: Sequence[_Ratings]) -> Iterator[tuple[str, Estimate]]:
    """Yield the mean of the ratings that there are, nothing where there is none."""
    given = [[rating for rating in each if rating is not None] for each in ratings]
    kept = [each for each in given if each]
    if kept:
        yield name, estimate_of_items([sum(each) for each in kept], [len(each) for each in kept])


def _notes(ratings: Sequence[_Ratings]) -> list[str]:
    without = sum(rating is None for each in ratings for rating in each)
    return [f"{without:,} answers have no rating: the judge gave none from 1 to 10 in [[ ]]"] if without else []


SUITE = run_mt_bench
