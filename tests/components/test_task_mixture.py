"""A mixture has exact shares, the rows of its sources, and an evaluation of each."""

import json
import math
from pathlib import Path

import pytest
import torch
from data_helpers import SENTENCES, write_json_lines, write_tokenizer
from torch import nn

import archlab
from archlab import ArchlabError, ConfigError, TextSource
from archlab.components.task.mixture import Mixture
from archlab.components.task.text import Text
from archlab.config.schema import coerce
from archlab.data.mixing import Mixing
from archlab.data.prepared import prepare_text
from archlab.inference.evaluate import evaluate

NAMES = ("web", "code", "books")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    write_json_lines(tmp_path / "web" / "a.jsonl", SENTENCES[:150])
    write_json_lines(tmp_path / "code" / "a.jsonl", [text.upper() for text in SENTENCES])
    write_json_lines(tmp_path / "books" / "a.jsonl", [text[::-1] for text in SENTENCES])
    return tmp_path


def mixture(texts: Path, **knobs: object) -> Mixture:
    weights = {"web": 0.5, "code": 0.3, "books": 0.2}
    sources = [TextSource(weight, path=str(texts / name)) for name, weight in weights.items()]
    return Mixture(sources=sources, **{"eval_bytes": 500, **knobs})  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.3], [0.5, 0.3, 0.2], [1e-05, 1.0, 3.0, 0.1], [3.0, 3.0, 1.0]])
def test_any_first_samples_have_their_shares(weights: list[float]) -> None:
    mixing = Mixing(weights)
    sources = mixing.sources(0, 500)
    for number in (1, 2, 10, 177, 500):
        counts = [sources[:number].count(source) for source in range(len(weights))]
        assert counts == mixing.counts(number)
        for count, share in zip(counts, mixing.shares, strict=True):
            assert abs(count - number * share) < len(weights)
    assert mixing.sources(100, 130) == sources[100:130]
    assert mixing.counts(10**18)[0] == pytest.approx(10**18 * mixing.shares[0], rel=1e-12)


def test_weights_are_the_decimals_that_were_written() -> None:
    assert Mixing([0.7, 0.3]).weights == [7, 3]
    assert Mixing([2.0, 1.0]).weights == [2, 1]
    assert Mixing([0.1, 0.2, 0.7]).counts(1000) == [100, 200, 700]


def test_the_rows_are_those_of_the_sources(texts: Path) -> None:
    task = mixture(texts)
    parts = [Text(path=str(texts / name), eval_bytes=500) for name in NAMES]
    inputs, targets = task.rows("train", 40, 70, batch_size=4, context=16, seed=3)
    seen = task.mixing.counts(40)
    for row, source in enumerate(task.mixing.sources(40, 70)):
        own = parts[source].rows("train", seen[source], seen[source] + 1, batch_size=4, context=16, seed=3)
        assert torch.equal(inputs[row], own[0][0])
        assert torch.equal(targets[row], own[1][0])
        seen[source] += 1
    whole = torch.cat([task.batch("train", step, 5, 16, 3)[0] for step in range(8, 14)])
    assert torch.equal(whole, inputs)


def test_the_documents_are_those_of_the_sources(texts: Path) -> None:
    task, sizes = mixture(texts), {"batch_size": 4, "context": 64, "seed": 3}
    found = task.documents("train", 40, 60, **sizes)
    own = []
    for name, first, last in zip(NAMES, task.mixing.counts(40), task.mixing.counts(60), strict=True):
        own += Text(path=str(texts / name), eval_bytes=500).documents("train", first, last, **sizes)
    assert len(found) > 20
    for document, expected in zip(found, own, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(document, expected, strict=True))


def test_the_batches_of_an_evaluation_are_those_of_one_source_after_the_other(texts: Path) -> None:
    task, own = mixture(texts), [Text(path=str(texts / name), eval_bytes=500) for name in NAMES]
    batches = list(task.eval_batches("validation", 2, 16, 90))
    expected = [batch for part in own for batch in part.eval_batches("validation", 2, 16, 30)]
    for batch, (inputs, targets) in zip(batches, expected, strict=True):
        assert torch.equal(batch[0], inputs)
        assert torch.equal(batch[1], targets)
    assert sum(int((targets >= 0).sum()) for _, targets in batches) == task.num_eval_targets("validation", 16, 90)


def test_bytes_per_token_have_the_shares_as_weights(texts: Path) -> None:
    file = str(write_tokenizer(texts / "tokenizer.json"))
    own = [Text(path=str(texts / name), eval_bytes=500, tokenizer=file).bytes_per_token("test") for name in NAMES]
    found = mixture(texts, tokenizer=file).bytes_per_token("test")
    assert found == pytest.approx(0.5 * own[0] + 0.3 * own[1] + 0.2 * own[2])


def test_one_source_whose_text_is_lost_has_no_bits_per_byte(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [each for text in SENTENCES for each in text.split()]
    vocabulary = {"words": ["<unk>", "<eos>", *dict.fromkeys(words)], "vocab_size": 700}
    (texts / "vocabulary.json").write_text(json.dumps(vocabulary))
    sources = [TextSource(1, path=str(texts / name)) for name in ("web", "code")]
    tasks = [Mixture(sources=part, tokenizer=str(texts / "vocabulary.json")) for part in (sources[:1], sources)]
    assert [task.has_bits_per_byte("validation") for task in tasks] == [True, False]
    assert "code" in caplog.text
    assert "the unknown word" in caplog.text


def test_a_corpus_that_was_not_prepared_is_missed_before_anything_is_read(texts: Path) -> None:
    sources = [TextSource(1, path=str(texts / "web")), TextSource(1, corpus=str(texts / "nowhere"))]
    for knobs, end in (({"vocab_size": 300}, " of up to 300 tokens"), ({}, "")):
        task = Mixture(sources=sources, tokenizer="bytes", **knobs)
        with pytest.raises(ArchlabError, match=f"/nowhere: no prepared corpus there; .* FILE makes it{end}$"):
            task.require_sources()


class Uniform(nn.Module):
    def forward(self, tokens: torch.Tensor, state: object = None) -> tuple[torch.Tensor, object]:
        return torch.nn.functional.one_hot(tokens, 256).float() * 3, state


def test_every_source_is_evaluated_by_itself(texts: Path) -> None:
    task, done = mixture(texts), list[int]()
    found = evaluate(
        Uniform(), task, "test", batch_size=2, context=16, progress=lambda count, total: done.append(count)
    )
    for name in NAMES:
        own = evaluate(
            Uniform(), Text(path=str(texts / name), eval_bytes=500), "test", batch_size=2, context=16
        ).metrics
        assert found.metrics[f"loss_{name}"] == own["loss"]
    losses = [found.metrics[f"loss_{name}"] for name in NAMES]
    assert found.metrics["loss"] == pytest.approx(0.5 * losses[0] + 0.3 * losses[1] + 0.2 * losses[2])
    assert found.metrics["bpb"] == pytest.approx(found.metrics["loss"] / math.log(2))
    assert done == sorted(done)
    assert done[-1] == found.tokens == task.num_eval_targets("test", 16)


def test_yaml_round_trips_and_names_what_is_wrong(texts: Path, tiny) -> None:
    data = tiny().resolved
    web, code = ({"path": str(texts / name), "weight": weight} for name, weight in (("web", 0.7), ("code", 0.3)))
    data["task"] = {"type": "mixture", "sources": [web, {**code, "glob": "*.jsonl"}]}
    loaded = archlab.load(data)
    assert archlab.load(loaded.resolved).resolved == loaded.resolved
    assert loaded.resolved["task"]["sources"][1] == {**code, "glob": "*.jsonl"}
    assert archlab.load(data, ["task.sources[0].weight=0.2"]).task.knobs["sources"][0].weight == 0.2
    for change, message in (
        ({"sources": [{"path": "a"}]}, r"task\.sources\[0\]: needs 'weight': a number above 0"),
        ({"sources": [{**web, "weight": 0}]}, r"task\.sources\[0\]\.weight: 0.0 is not above 0"),
        ({"sources": [{**web, "pth": "x"}]}, r"unknown key 'pth'; did you mean 'path'"),
        ({"sources": []}, "sources is empty"),
        ({"sources": [{"weight": 1}]}, r"sources\[0\]: needs a path or a prepared corpus"),
        ({"sources": [{**web, "corpus": "x"}]}, r"sources\[0\]: needs a path or a prepared corpus, and not both"),
        ({"sources": [{**web, "name": "a web"}]}, r"sources\[0\]: 'a web' cannot name a metric; give it a name"),
        ({"sources": [web], "tokenizer": "words"}, r"task: mixture: tokenizer 'words': name the vocabulary\.json of a"),
        ({"sources": [web, web]}, r"sources\[1\]: 'web' is the name of another source"),
    ):
        with pytest.raises(ConfigError, match=message):
            archlab.load({**data, "task": {"type": "mixture", **change}}).task.factory()()


def test_a_tokenizer_and_a_prepared_corpus_are_mixed(texts: Path) -> None:
    file = str(write_tokenizer(texts / "tokenizer.json"))
    prepare_text(texts / "code", texts / "prepared", file, eval_bytes=500)
    sources = [{"path": str(texts / "web"), "weight": 3}, {"corpus": str(texts / "prepared"), "weight": 1}]
    task = Mixture(sources=coerce(sources, list[TextSource], "task.sources"), eval_bytes=500)
    task.check(16)
    assert task.tokenizer.vocab_size == 400
    assert len(task.prepare()) == 2
    facts = task.describe()
    assert facts["sources"]["prepared"]["weight"] == 1
    assert facts["documents"] == 450
    other = mixture(texts, tokenizer="bytes")
    other.sources.append(TextSource(1.0, corpus=str(texts / "prepared")))
    with pytest.raises(ArchlabError, match=r"prepared: its tokens are tokenizer\.json.*, but the model's are bytes"):
        Mixture(sources=other.sources, tokenizer="bytes").check(16)


@pytest.mark.slow
def test_shares_are_shown_without_reading(run, tiny_file: Path) -> None:
    sources = "{type: mixture, sources: [{path: nowhere/web, weight: 0.7}, {path: nowhere/code, weight: 0.3}]}"
    done = run("show", str(tiny_file), f"task={sources}")
    assert done.status == 0
    assert "web 0.7, code 0.3 of the samples" in done.out
