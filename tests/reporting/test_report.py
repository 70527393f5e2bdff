import json
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from report_cases import write_run
from search_helpers import TRAIN, pretend, replace_training, search, write_space

from archlab import ArchlabError
from archlab.config.experiment import Experiment, load
from archlab.reporting.figures.bars import bars
from archlab.reporting.figures.parallel import parallel_coordinates
from archlab.reporting.format import brief
from archlab.reporting.html import code, escape, figure, table
from archlab.reporting.importance import MIN_TRIALS, importances
from archlab.reporting.report import report
from archlab.reporting.search_data import read_search, short_names
from archlab.searching.study.study import open_study
from archlab.text import HIDDEN, visible
from archlab.training.trainer import train

EMA = "model.layers[*].mixer.ema"
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
VOID = {"img", "meta", "br", "link", "wbr"}


class Reader(HTMLParser):
    """Collects a page's text and checks that every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(loss: Callable[[Experiment], float]) -> None:
        replace_training(monkeypatch, pretend(loss))

    replace_training(monkeypatch, pretend())
    return install


def read(file: Path) -> tuple[str, Reader]:
    page = file.read_text()
    return page, Reader(page)


@pytest.mark.slow
def test_a_search_s_report_is_complete(tmp_path: Path, fake: Any) -> None:
    vary = {EMA: ["cema", "none"], f"{EMA}.num_dims": "auto", "train.lr": {"low": 0.001, "high": 0.1, "log": True}}
    file = write_space(tmp_path, vary=vary, study={"pruner": "none"})
    outcome = search(file, tmp_path / "s", trials=6)
    page, reader = read(report(tmp_path / "s"))
    text = " ".join(reader.text)
    best = outcome.summary.best_trial.validation["bpb"]
    assert f"The best trial, number {outcome.best_trial}, needs {best:.3f} bits per byte" in text
    assert f"{outcome.summary.baseline.validation['bpb']:.3f} for the baseline" in text
    for name, bits in outcome.summary.compressors.items():
        assert f"{bits:.3f} for {'xz (lzma)' if name == 'lzma' else name}" in text
    assert "one whole file at their strongest settings" in text
    assert f"{outcome.summary.validation_bytes:,} bytes of validation text" in text
    tokens = TRAIN["steps"] * TRAIN["batch_size"] * TRAIN["context"]
    assert f"trained on {tokens:,} tokens" in text
    assert outcome.summary.corpus["sha256"] in text
    assert outcome.summary.versions["torch"] in text
    assert f"archlab search {tmp_path / 's' / 'search.yaml'} --out" in text
    assert "window: chunk" in text
    rows = read_search(tmp_path / "s")
    assert rows.baseline.values == {EMA: "cema", f"{EMA}.num_dims": 4, "train.lr": 0.01}
    figures = [value for tag, name, value in reader.attributes if (tag, name) == ("figure", "id")]
    assert figures == ["bits", "history", "knobs", "costs", "curves", "coordinates", "layers"]
    assert len(page) < 150_000


@pytest.mark.slow
def test_a_report_needs_no_network(tmp_path: Path, fake: Any) -> None:
    search(write_space(tmp_path), tmp_path / "s", trials=2)
    page, reader = read(report(tmp_path / "s"))
    links = [value for _, name, value in reader.attributes if name in ("src", "href")]
    files = {link for link in links if link and not link.startswith("#")}
    assert files == {"baseline/", "trials/0000/", "trials/0001/"}
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "default-src 'none'" in page


@pytest.mark.slow
def test_what_a_user_wrote_is_escaped(tmp_path: Path, fake: Any) -> None:
    evil = "<script>alert('x')</script>"

    def loss(experiment: Experiment) -> float:
        if experiment.train.lr != 0.01:
            raise RuntimeError(evil)
        return 1.0

    fake(loss)
    search(write_space(tmp_path), tmp_path / "s", trials=1)
    page, reader = read(report(tmp_path / "s"))
    assert evil not in page
    assert any(evil in text for text in reader.text)
    assert "No trial has been completed." in reader.text


@pytest.mark.slow
def test_reports_of_few_trials_and_of_running_searches(tmp_path: Path, fake: Any) -> None:
    search(write_space(tmp_path), tmp_path / "s", trials=1)
    (tmp_path / "s" / "summary.json").unlink()
    (tmp_path / "s/baseline/result.json").unlink()
    found = read_search(tmp_path / "s")
    assert (found.baseline.state, found.baseline.metrics) == ("running", {})
    assert found.baseline.curve
    study = open_study(found.space, tmp_path / "s")
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"interrupted": True, "values": {}}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"values": {}, "reason": "no memory"}))
    assert [trial.state for trial in read_search(tmp_path / "s").trials] == ["complete", "interrupted", "failed"]
    _, reader = read(report(tmp_path / "s"))
    text = " ".join(reader.text)
    assert "The search has not ended" in text
    assert "This figure needs two complete trials." in text
    assert "20 complete trials are needed, and there are 1" in text


@pytest.mark.slow
def test_importances_find_the_knob_that_matters_for_either_direction(tmp_path: Path, fake: Any) -> None:
    vary = {"train.lr": {"low": 0.001, "high": 0.1, "log": True}, "train.weight_decay": {"low": 0, "high": 1}}
    study = {"sampler": "random", "pruner": "none"}
    search(write_space(tmp_path, vary=vary, study=study), tmp_path / "s", trials=MIN_TRIALS)
    found, problem = importances(read_search(tmp_path / "s"))
    assert problem == ""
    assert max(found, key=lambda name: found[name]) == "train.lr"
    file = write_space(tmp_path, vary=vary, study=study, objectives={"tokens_per_s": "maximize"})
    search(file, tmp_path / "t", trials=4)
    found, problem = importances(read_search(tmp_path / "t"))
    assert found or problem.startswith("Importances cannot be computed")


@pytest.mark.slow
def test_a_pareto_front_is_drawn_for_several_objectives(tmp_path: Path, fake: Any) -> None:
    fake(lambda experiment: 1.0 if "cema" in experiment.to_yaml() else 2.0)
    objectives = {"val_loss": "minimize", "params": "minimize"}
    search(write_space(tmp_path, vary={EMA: ["cema", "none"]}, objectives=objectives), tmp_path / "s", trials=4)
    _, reader = read(report(tmp_path / "s"))
    assert ("figure", "id", "costs") in reader.attributes
    assert "Costs and results" in reader.text


@pytest.mark.slow
def test_parallel_coordinates_cope_with_knobs_that_some_trials_lack(tmp_path: Path, fake: Any) -> None:
    vary = {EMA: ["cema", "none"], f"{EMA}.num_dims": {"low": 2, "high": 8}}
    search(write_space(tmp_path, vary=vary, study={"pruner": "none"}), tmp_path / "s", trials=6)
    chart = parallel_coordinates(read_search(tmp_path / "s"))
    assert chart is not None
    axes = {axis["label"]: axis for axis in chart.spec["axes"]}
    assert list(axes) == ["ema", "num_dims", "val_loss"]
    assert axes["ema"]["values"] == ["cema", "none"]
    assert axes["num_dims"]["slots"] == ["–"]


@pytest.mark.slow
def test_a_run_that_has_not_ended_nor_been_evaluated(tmp_path: Path) -> None:
    write_space(tmp_path)
    folder = write_run(tmp_path / "run", tmp_path / "tiny.yaml", steps=20)
    text = " ".join(read(report(folder))[1].text)
    assert f"After 20 of {TRAIN['steps']} steps, the model has not been evaluated on the validation split." in text
    assert "The run has not ended; this is its state now." in text
    assert "not finished" in text
    (folder / "metrics.jsonl").write_text("")
    text = " ".join(read(report(folder))[1].text)
    assert f"After 0 of {TRAIN['steps']} steps" in text
    assert "Learning curves" not in text
    assert "Other metrics" not in text


@pytest.mark.slow
def test_a_run_s_report(tmp_path: Path) -> None:
    write_space(tmp_path)
    train(load(tmp_path / "tiny.yaml"), tmp_path / "run")
    _, reader = read(report(tmp_path / "run"))
    text = " ".join(reader.text)
    assert "Run: tiny" in text
    assert "After 4 of 4 steps" in text
    origin = json.loads((tmp_path / "run" / "final" / "provenance.json").read_text())
    assert origin["data"]["sha256"] in text
    assert "memory_per_device" in text


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"holds neither a search .* nor a run"):
        report(tmp_path)


def test_short_names_are_as_short_as_they_can_be() -> None:
    names = ["model.norm", "model.layers[*].norm", "train.lr", EMA]
    assert list(short_names(names).values()) == ["model.norm", "layers[*].norm", "lr", "ema"]


def test_values_as_a_table_shows_them() -> None:
    values = [None, True, 0.00123456, {"type": "softmax", "window": "chunk"}, ["a", 2]]
    assert [brief(value) for value in values] == ["null", "True", "0.001235", "softmax (window chunk)", "a, 2"]
    assert '<td class="n" data-v=1072640>1,072,640</td>' in table(["params"], [("", [1072640])])


EVIL = "</script><img src=x onerror=alert(1)>%{x} <b>B</b> \x1b[31m\u202egnp.exe &amp; \udcff"


@pytest.mark.slow
@settings(deadline=None)
@given(TEXTS)
def test_text_in_elements_and_attributes_is_read_back(text: str) -> None:
    reader = Reader(f'<p class="{escape(text)}">{escape(text)}</p>')
    assert reader.attributes == [("p", "class", visible(text))]
    assert "".join(reader.text) == visible(text)


def test_text_of_a_figure_is_text() -> None:
    page = figure(bars("one", EVIL, {EVIL: 1.0}, ["best"], label=EVIL))
    reader = Reader(page)
    assert not [tag for tag, *_ in reader.attributes if tag in ("img", "b")]
    assert page.count("</script>") == page.count("<script")
    page.encode()  # no surrogates
    data = json.loads(page.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert data["label"].startswith("</script><img src=x")
    assert not HIDDEN.search(data["label"])


def test_code_keeps_its_lines() -> None:
    assert Reader(code("a\n\tb\x1b")).text == ["a\n\tb\\x1b"]


@pytest.mark.slow
def test_a_hostile_search(tmp_path: Path, fake: Any) -> None:
    def loss(experiment: Experiment) -> float:
        if experiment.task.knobs["glob"] == "fail":
            raise RuntimeError(EVIL + "x" * 2000)
        return 1.0

    fake(loss)
    vary = {"task.glob": [EVIL, "a\nb", "fail"]}
    folder = tmp_path / "a 'b' [c]"
    search(write_space(tmp_path, vary=vary, study={"sampler": "brute_force"}), folder, trials=3)
    page, reader = read(report(folder))
    text = " ".join(reader.text)
    assert visible(EVIL.strip()) in text
    assert "a\\nb" in text
    assert f"archlab search {shlex.quote(str(folder / 'search.yaml'))} --out" in text
    assert not HIDDEN.search(page.partition("<main>")[2].replace("\n", "").replace("\t", ""))
    assert [tag for tag, *_ in reader.attributes if tag == "img"] == []
    search(tmp_path / "space.yaml", folder, trials=3)  # what was written is the same space again
