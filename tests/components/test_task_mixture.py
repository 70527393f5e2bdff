"""A mixture has exact shares, the rows of its sources, and an evaluation of each."""

import math
from pathlib import Path

import pytest
import torch
from data_helpers import SENTENCES, write_json_lines, write_tokenizer
from torch import nn

import archlab
from archlab import ArchlabError, ConfigError
from archlab.components.task.mixture import Mixture, MixtureSource
from archlab.components.task.text import Text
from archlab.config.schema import coerce
from archlab.data.mixing import Mixing
from archlab.data.prepared import prepare_text
from archlab.inference.evaluate import evaluate


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    write_json_lines(tmp_path / "web" / "a.jsonl", SENTENCES[:150])
    write_json_lines(tmp_path / "code" / "a.jsonl", [text.upper() for text in SENTENCES])
    write_json_lines(tmp_path / "books" / "a.jsonl", [text[::-1] for text in SENTENCES])
    return tmp_path


def mixture(texts: Path, **knobs: object) -> Mixture:
    weights = {"web": 0.5, "code": 0.3, "books": 0.2}
    sources = [MixtureSource(weight, path=str(texts / name)) for name, weight in weights.items()]
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
    parts = [Text(path=str(texts / name), eval_bytes=500) for name in ("web", "code", "books")]
    inputs, targets = task.rows("train", 40, 70, batch_size=4, context=16, seed=3)
    seen = task.mixing.counts(40)
    for row, source in enumerate(task.mixing.sources(40, 70)):
        own = parts[source].rows("train", seen[source], seen[source] + 1, batch_size=4, context=16, seed=3)
        assert torch.equal(inputs[row], own[0][0])
        assert torch.equal(targets[row], own[1][0])
        seen[source] += 1
    whole = torch.cat([task.batch("train", step, 5, 16, 3)[0] for step in range(8, 14)])
    assert torch.equal(whole, inputs)


class Uniform(nn.Module):
    def forward(self, tokens: torch.Tensor, state: object = None) -> tuple[torch.Tensor, object]:
        return torch.nn.functional.one_hot(tokens, 256).float() * 3, state


def test_every_source_is_evaluated_by_itself(texts: Path) -> None:
    task, done = mixture(texts), list[int]()
    found = evaluate(
        Uniform(), task, "test", batch_size=2, context=16, progress=lambda count, total: done.append(count)
    )
    for name in ("web", "code", "books"):
        own = evaluate(
            Uniform(), Text(path=str(texts / name), eval_bytes=500), "test", batch_size=2, context=16
        ).metrics
        assert found.metrics[f"loss_{name}"] == own["loss"]
    losses = [found.metrics[f"loss_{name}"] for name in ("web", "code", "books")]
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
        ({"sources": [web, web]}, r"sources\[1\]: 'web' is the name of another source"),
    ):
        with pytest.raises(ConfigError, match=message):
            archlab.load({**data, "task": {"type": "mixture", **change}}).task.factory()()


def test_a_tokenizer_and_a_prepared_corpus_are_mixed(texts: Path) -> None:
    file = str(write_tokenizer(texts / "tokenizer.json"))
    prepare_text(texts / "code", texts / "prepared", file, eval_bytes=500)
    sources = [{"path": str(texts / "web"), "weight": 3}, {"corpus": str(texts / "prepared"), "weight": 1}]
    task = Mixture(sources=coerce(sources, list[MixtureSource], "task.sources"), eval_bytes=500)
    task.check(16)
    assert task.tokenizer.vocab_size == 400
    assert len(task.prepare()) == 2
    facts = task.describe()
    assert facts["sources"]["prepared"]["weight"] == 1
    assert facts["documents"] == 450
    other = mixture(texts, tokenizer="bytes")
    other.sources.append(MixtureSource(1.0, corpus=str(texts / "prepared")))
    with pytest.raises(ArchlabError, match=r"prepared: its tokens are tokenizer\.json.*, but the model's are bytes"):
        Mixture(sources=other.sources, tokenizer="bytes").check(16)


@pytest.mark.slow
def test_shares_are_shown_without_reading(run, tiny_file: Path) -> None:
    sources = "{type: mixture, sources: [{path: nowhere/web, weight: 0.7}, {path: nowhere/code, weight: 0.3}]}"
    done = run("show", str(tiny_file), f"task={sources}")
    assert done.status == 0
    assert "web 0.7, code 0.3 of the samples" in done.out
