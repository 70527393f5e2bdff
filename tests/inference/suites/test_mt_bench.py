"""Two turns are written, judged by an endpoint, and rated; no key is shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from archlab.inference import judge
from archlab.inference.judge import Judge, rating_in
from archlab.inference.mt_bench import PROMPTS, Question, read_prompts, read_questions

KEY = "a-secret-key"
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a {line}.", "And one more."]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "2 + 2?"], "reference": ["2", "4"]},
]


class _Endpoint(BaseHTTPRequestHandler):
    """Rates first answers with 3, second ones with 6 and those that have a reference with 1 more; is busy once."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_allowed = self.headers["Authorization"] == f"Bearer {KEY}" and self.path == "/v1/chat/completions"
        self.asked.append(asked)
        prompt = asked["messages"][1]["content"]
        rating = 3 + 3 * ("[Second question]" in prompt) + ("[Reference answer]" in prompt)
        content = {"choices": [{"message": {"content": f"From [[1]] to [[10]] it is [[{rating}]]"}}]}
        self.send_response(503 if len(self.asked) == 1 else 200 if is_allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    handler = type("Handler", (_Endpoint,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv(judge.URL, f"http://127.0.0.1:{server.server_port}/v1/")
    monkeypatch.setenv(judge.MODEL, "judge-1")
    monkeypatch.setenv(judge.KEY, KEY)
    monkeypatch.setattr(judge.time, "sleep", lambda seconds: None)
    yield handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return tmp_path / "question.jsonl"


@pytest.mark.services
def test_two_turns_are_written_and_rated(
    run, trained: Path, questions: Path, endpoint: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "found"
    asked = ["--questions", str(questions), "--tokens", "9", "--out", str(out)]
    done = run("eval", str(trained), "--suite", "mt-bench", *asked)
    assert done.status == 0, done.err
    result = json.loads((out / "result.json").read_text())
    values = {name: figure["value"] for name, figure in result["figures"].items()}
    assert values == {"all": 5, "turn 1": 3.5, "turn 2": 6.5, "writing": 4.5, "math": 5.5}
    assert (result["settings"]["judge"], result["settings"]["judge_prompts"]) == ("judge-1", "archlab's own")
    assert [len(record["answers"]) for record in result["records"]] == [2, 2]
    assert len(endpoint) == 5  # one of which found it busy
    assert "[First question]\nWrite a {line}.\n\n" in endpoint[2]["messages"][1]["content"]
    everything = done.out + done.err + "".join(file.read_text() for file in out.iterdir())
    assert KEY not in everything


@pytest.mark.services
def test_an_error_of_a_judge_shows_its_answer(
    run, trained: Path, questions: Path, endpoint: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(judge.KEY, "another")
    done = run("eval", str(trained), "--suite", "mt-bench", "--questions", str(questions), "--tokens", "2")
    assert (done.status, done.err) == (2, "archlab: the judge answers 401 (Unauthorized)\n")


@pytest.mark.slow
def test_without_a_judge_nothing_is_written(
    run, trained: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(judge.URL, raising=False)
    done = run("eval", str(trained), "--suite", "mt-bench", "--questions", str(questions))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "there is no judge: set ARCHLAB_JUDGE_URL" in done.err
    none = run("eval", str(trained), "--suite", "mt-bench")
    assert (none.status, "needs --questions FILE" in none.err) == (2, True)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"turns": ["one"]}', r":1: no question: 'turns' needs two texts"),
        ('{"turns": ["one", 2]}', "no question"),
        ('{"turns": ["a", "b"], "reference": ["c"]}', "'reference' two or none"),
        ("[", ":1: is no JSON"),
        ("3", ":1: is no JSON object"),
        ("", "is empty"),
    ],
)
def test_what_is_no_question_is_refused_by_its_line(row: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "question.jsonl").write_text(row)
    with pytest.raises(judge.ArchlabError, match=problem):
        read_questions(tmp_path / "question.jsonl")


def test_the_published_prompts_are_taken_where_they_are(questions: Path) -> None:
    names = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
    templates = ("Q {question} A {answer}", "{question_2}: {answer_2}", "{ref_answer_1} {answer}", "{ref_answer_2}")
    rows = [
        {"name": name, "system_prompt": f"Judge {name}.", "prompt_template": template}
        for name, template in zip(names, templates, strict=True)
    ]
    questions.with_name(PROMPTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, origin = read_prompts(questions)
    question = Question("1", "math", ("{answer}", "b"), ("c", "d"))
    assert origin == PROMPTS
    assert [prompts[name].fill(question, ("x", "y")) for name in names] == ["Q {answer} A x", "b: y", "c x", "d"]
    with pytest.raises(judge.ArchlabError, match="nothing to put in place of"):
        prompts[names[3]].fill(Question("1", "math", ("a", "b")), ("x", "y"))
    questions.with_name(PROMPTS).write_text(json.dumps(rows[0]))
    with pytest.raises(judge.ArchlabError, match="has no prompt 'single-v1-multi-turn'"):
        read_prompts(questions)


def test_a_rating_is_the_last_one_from_1_to_10() -> None:
    assert [rating_in(text) for text in ("[[3]] no, [[7.5]]", "Rating: 7", "[[11]]", "[[0]]")] == [
        7.5,
        None,
        None,
        None,
    ]


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(Judge("http://127.0.0.1/v1", "m", KEY))


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host/v1", "file:///etc/passwd"])
def test_a_judge_is_at_an_address_of_the_web(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.URL, url)
    monkeypatch.setenv(judge.MODEL, "judge-1")
    with pytest.raises(judge.ArchlabError, match="ARCHLAB_JUDGE_URL: is not an http or https address"):
        Judge.from_environment()


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, [1], None])
def test_another_answer_than_openai_s_is_refused(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "_post", lambda self, data: answer)
    with pytest.raises(
        judge.ArchlabError, match=r"does not answer as OpenAI's does: no choices\[0\]\.message\.content"
    ):
        Judge("http://127.0.0.1:1", "judge-1").ask("system", "prompt")


def test_a_judge_that_is_not_there_is_named_by_what_the_machine_says() -> None:
    with pytest.raises(judge.ArchlabError, match=r"the judge cannot be asked: .*refused"):
        Judge("http://127.0.0.1:1/v1", "judge-1", KEY).ask("system", "prompt")


@pytest.mark.parametrize("read", [read_questions, read_prompts])
def test_a_file_that_cannot_be_read_is_named(read: Callable[[Path], object], questions: Path) -> None:
    file = questions.with_name(PROMPTS) if read is read_prompts else questions
    file.write_bytes(b"\xff")
    with pytest.raises(judge.ArchlabError, match=rf"{file.name}: cannot be read: "):
        read(questions)
