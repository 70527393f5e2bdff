"""lm-eval finds the same of a model of ours and of its export to transformers, by its own backend for these."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
import yaml
from data_helpers import write_tokenizer

from archlab import ArchlabError, SuiteRequest
from archlab.config.experiment import load
from archlab.inference.suite import find_suite
from archlab.inference.text_model import TextModel
from archlab.interop.exporting.export import export
from archlab.modeling.build import build
from archlab.storage.checkpoint import save_model
from archlab.storage.trained_model import load_trained_or_export

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.services

Made: TypeAlias = tuple[Path, Path]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "that", "ran", "far", "from", "there"]
BEGIN = "<|endoftext|>"
WINDOW = "model.layers[0].mixer.attention.window_size="
MODELS = {"llama2_tiny": [f"{WINDOW}96"], "megalodon_tiny": [f"{WINDOW}16"], "hybrid_tiny": []}


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module", params=[*MODELS, "tokenizer", "special"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, text: Path) -> Made:
    """A trained model with noise on every weight, and its export."""
    folder, name = tmp_path_factory.mktemp("made"), request.param
    task = f"task={{type: text, path: {text}}}"
    more = MODELS.get(name, [])
    if name in ("tokenizer", "special"):
        tokenizer, special = write_tokenizer(folder / "tokenizer.json"), name == "special"
        if special:
            begin_texts_specially(tokenizer)
        knobs = f"tokenizer: {tokenizer}, special_tokens: {str(special).lower()}"
        name, task = "hybrid_tiny", f"task={{type: text, path: {text}, {knobs}}}"
        more = ["model.vocab_size=400"]
    experiment = load(name, [*more, task, "train.precision=float32", "train.context=32"])
    model = build(experiment.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    run = folder / "run"
    save_model(run / "final", model, experiment.resolved, {"step": 3}, experiment.task.factory()().model_tokens())
    return run, export(run, folder / "out", ["transformers"])


def begin_texts_specially(file: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    special = [(BEGIN, tokenizer.token_to_id(BEGIN))]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(f"{BEGIN} $A", special_tokens=special)
    tokenizer.save(str(file))


def ours(folder: Path, **settings: Any) -> Any:
    from archlab.inference.harness.language_model import ArchlabLM

    return ArchlabLM(TextModel(*load_trained_or_export(folder)), **settings)


def theirs(folder: Path, prefix: int, **settings: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    # Its cache scores the wrong tokens of a request that another one, with less context, shares all tokens with.
    options = {"logits_cache": False, "trust_remote_code": True, "device": "cpu", "dtype": "float32", "batch_size": 3}
    has_own = "eos_token_id" in (folder / "generation_config.json").read_text()
    model = HFLM(pretrained=str(folder), **options, **settings, **({} if has_own else {"prefix_token_id": prefix}))
    if not has_own:  # bytes, which lm-eval then cannot stop
        model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(prefix)
    return model


def sentence(seed: int, num_words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def ask(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]  # type: ignore[arg-type]


# One with no context, one whose context ends with a space, answers of one token after one context, and one too long.
PAIRS = [
    *((sentence(seed, 1 + seed * 3), f" {sentence(seed + 50, 1 + seed % 3)}") for seed in range(7)),
    ("", "the cat sat"),
    ("the cat ", "sat"),
    ("is it so? ", "y"),
    ("is it so? ", "n"),
    (sentence(9, 60), " dog"),
    (f"{BEGIN}the cat", " sat"),
]


def test_loglikelihoods_are_those_of_transformers_batched_and_alone(made: Made) -> None:
    run, out = made
    requests = ask("loglikelihood", *PAIRS)
    batched = ours(run, max_length=90, batch_size=5).loglikelihood(requests)
    alone = ours(run, max_length=90, batch_size=1)
    assert batched == [pytest.approx(each, abs=1e-4) for each in alone.loglikelihood(requests)]
    assert batched == [pytest.approx(each, abs=1e-4) for each in ours(out, max_length=90).loglikelihood(requests)]
    assert batched == [pytest.approx(alone.loglikelihood([each])[0], abs=1e-4) for each in requests]
    hf = theirs(out, alone.prefix_token_id, max_length=90).loglikelihood(requests, disable_tqdm=True)
    assert batched == [pytest.approx(each, abs=1e-4) for each in hf]


def test_a_document_is_cut_as_transformers_cuts_it(made: Made) -> None:
    run, out = made
    requests = ask("loglikelihood_rolling", *((sentence(seed, 1 + 20 * seed),) for seed in range(4)))
    mine = ours(run, max_length=50)
    hf = theirs(out, mine.prefix_token_id, max_length=50).loglikelihood_rolling(requests, disable_tqdm=True)
    assert mine.loglikelihood_rolling(requests) == pytest.approx(hf, abs=2e-4)


def test_a_whole_document_is_read_as_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from archlab.inference.harness import scoring

    run, out = made
    if "96" in (out / "config.yaml").read_text():
        with pytest.raises(ArchlabError, match="whole documents: the model's full attention keeps 96 tokens"):
            ours(run, whole_documents=True)
        return
    requests = ask("loglikelihood_rolling", (sentence(1, 70),), (sentence(2, 31),))
    monkeypatch.setattr(scoring, "CHUNK", 29)
    mine = ours(run, whole_documents=True)
    found = mine.loglikelihood_rolling(requests)
    hf = theirs(out, mine.prefix_token_id, max_length=10_000)
    assert found == pytest.approx(hf.loglikelihood_rolling(requests, disable_tqdm=True), abs=5e-4)
    long = ask("loglikelihood", (sentence(3, 90), " dog"), (sentence(4, 61), " one dog ran"))
    expected = hf.loglikelihood(long, disable_tqdm=True)
    assert mine.loglikelihood(long) == [pytest.approx(each, abs=1e-4) for each in expected]
    assert found[0] != pytest.approx(ours(run, max_length=50).loglikelihood_rolling(requests)[0], abs=1e-2)


def test_answers_are_those_of_transformers_up_to_a_stop_text(made: Made) -> None:
    run, out = made
    prompts = [sentence(seed, 1 + 4 * seed) for seed in range(5)]
    mine = ours(run, max_length=90, batch_size=3)
    free = mine.generate_until(ask("generate_until", *((each, {"max_gen_toks": 12}) for each in prompts)))
    stops = [text[3:5] or "." for text in free]
    asked = [(each, {"until": [stop], "max_gen_toks": 12}) for each, stop in zip(prompts, stops, strict=True)]
    stopped = mine.generate_until(ask("generate_until", *asked))
    assert [text.split(stop)[0] for text, stop in zip(free, stops, strict=True)] == stopped
    hf = theirs(out, mine.prefix_token_id, max_length=90)
    assert [hf.generate_until([each], disable_tqdm=True)[0] for each in ask("generate_until", *asked)] == stopped


@pytest.fixture
def task_files(tmp_path: Path) -> Path:
    """A directory with a task of two answers, one of a text and one of a written answer, and their data."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": sentence(i, 2 + i), "right": i % 2, "text": sentence(30 + i, 25 + i)} for i in range(9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
    tasks = {
        "local_choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_target": "right",
            "doc_to_choice": ["the cat", "one dog ran"],
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "local_text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        "local_answer": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{text}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
            "metric_list": [{"metric": "exact_match"}, {"metric": "chrf"}],
        },
    }
    for name, task in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "test_split": "test", **data, **task}))
    return folder


def test_tasks_are_measured_as_lm_eval_measures_an_export(
    made: Made, task_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    run, out = made
    caplog.set_level(logging.CRITICAL)
    names = ("local_choice", "local_text", "local_answer")
    done = list[tuple[str, int, int | None]]()
    request = SuiteRequest(tasks=names, task_files=task_files, limit=7, max_context=90, batch_size=4)
    found = find_suite("lm-eval")(*reversed(load_trained_or_export(run)), request, lambda *each: done.append(each))
    assert found.tokens > 7 * 25
    assert done[-1][1] == done[-1][2]
    manager = TaskManager(include_path=str(task_files), include_defaults=False)
    hf = theirs(out, int(found.settings["first_token"] or 0), max_length=90)
    same = evaluate(lm=hf, task_dict=manager.load(list(names)), limit=7, bootstrap_iters=0)["results"]
    expected = {
        f"{name} {key.removesuffix(',none')}": value
        for name in names
        for key, value in same[name].items()
        if key.endswith(",none") and "stderr" not in key
    }
    assert set(found.figures) == set(expected)
    for name, value in expected.items():
        each = found.figures[name]
        assert each.value == pytest.approx(value, rel=1e-4), name
        assert each.units == 7
        if not name.startswith("local_answer"):  # whose items may all be as wrong
            assert each.low is not None
            assert each.high is not None
            assert each.low <= each.value <= each.high


@pytest.mark.parametrize("made", ["hybrid_tiny"], indirect=True)
def test_lm_eval_itself_takes_a_checkpoint_by_name(made: Made, task_files: Path) -> None:
    from lm_eval.api.registry import get_model

    import archlab.inference.harness.language_model  # noqa: F401

    run, _ = made
    requests = ask("loglikelihood", *PAIRS[:3])
    by_name = get_model("archlab").create_from_arg_string(f"checkpoint={run},max_length=90", {"batch_size": 2})
    assert by_name.max_length == 90
    assert by_name.loglikelihood(requests) == ours(run, max_length=90, batch_size=2).loglikelihood(requests)


@pytest.mark.parametrize("made", ["llama2_tiny"], indirect=True)
def test_rungs_that_cannot_be_run_are_reported(made: Made, task_files: Path) -> None:
    run, _ = made
    experiment, model = load_trained_or_export(run)
    silent = lambda *told: None  # noqa: E731
    for request, problem in (
        (SuiteRequest(), "the suite lm-eval needs --tasks"),
        (SuiteRequest(tasks=["local_chioce"], task_files=task_files), "did you mean 'local_choice'"),
        (SuiteRequest(tasks=["piqa"]), "the task 'piqa' cannot be run: .*piqa"),
        (SuiteRequest(tasks=["piqa"], text="a"), "the suite lm-eval takes no --text"),
        (SuiteRequest(tasks=["piqa"], task_files=Path("nowhere")), "nowhere: is not a directory of YAML files"),
    ):
        with pytest.raises(ArchlabError, match=problem):
            find_suite("lm-eval")(model, experiment, request, silent)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"num_beams": 4, "max_gen_toks": 8},
            "a task asks to generate with num_beams; archlab knows do_sample, seed, temperature, top_k",
        ),
        ({"max_gen_toks": 64}, "an answer of 64 tokens leaves none of 64 to its prompt"),
    ],
)
def test_answers_that_cannot_be_written_are_refused(settings: dict[str, Any], problem: str, trained: Path) -> None:
    with pytest.raises(ArchlabError, match=problem):
        ours(trained, max_length=64).generate_until(ask("generate_until", ("a", {"until": ["."], **settings})))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "a task asks for the likelihood of a text without tokens"),
        ("x" * 66, "an answer has 66 tokens, more than the 64 read"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(answer: str, problem: str, trained: Path) -> None:
    with pytest.raises(ArchlabError, match=problem):
        ours(trained, max_length=64).loglikelihood(ask("loglikelihood", ("a", answer)))


def test_a_model_of_something_else_than_text_is_refused() -> None:
    from archlab.inference.harness.language_model import ArchlabLM

    experiment = load("llama2_tiny", ["task=recall", "model.layers[0].repeat=1"])
    with pytest.raises(ArchlabError, match="lm-eval needs a model of text; this one reads something else"):
        ArchlabLM(TextModel(experiment, build(experiment.model)))


def test_a_task_is_given_as_many_examples_as_are_asked_for(task_files: Path) -> None:
    from archlab.inference.harness.tasks import TaskCatalog

    catalog = TaskCatalog(task_files)
    for asked, given in ((None, 0), (2, 2), (0, 0)):
        (task,) = catalog.load("local_choice", asked)["tasks"].values()
        assert task.get_config("num_fewshot") == given
