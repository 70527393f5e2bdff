"""`archlab generate` on one text, on a file of prompts, and from a saved state."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import archlab

GREEDY = ("--temperature", "0")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_prompts(folder: Path, *prompts: object) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    return file


@pytest.mark.slow
def test_a_file_of_prompts(run, trained: Path, tmp_path: Path) -> None:
    prompts = [
        {"prompt": "3 times"},
        {"prompt": "é", "id": {"row": 7}, "tokens": 3},
        {"prompt": "40 times 40 is", "temperature": 0.0, "stop": "6"},
        {"prompt": "x", "seed": 4, "top_k": 2, "top_p": 0.9, "stop": ["\n", "."]},
    ]
    file = write_prompts(tmp_path, *prompts)
    done = run("generate", str(trained), "--batch", str(file), "--tokens", "8", "--batch-size", "2")
    assert (done.status, done.err) == (0, "")
    results = lines(done.out)
    assert [result["prompt"] for result in results] == [prompt["prompt"] for prompt in prompts]
    assert [result.get("id") for result in results] == [None, {"row": 7}, None, None]
    assert results[1]["num_tokens"] == 3
    for prompt, result in zip(prompts, results, strict=True):
        options = [
            "--tokens",
            "8",
            *(
                f"--{name.replace('_', '-')}={value}"
                for name, value in prompt.items()
                if name not in ("id", "stop", "prompt")
            ),
        ]
        stop = prompt.get("stop", [])
        options += [f"--stop={text}" for text in ([stop] if isinstance(stop, str) else stop)]  # type: ignore[union-attr]
        alone = run("generate", str(trained), "--prompt", str(prompt["prompt"]), *options)
        assert alone.out == f"{prompt['prompt']}{result['text']}\n"
        assert result["finish_reason"] == ("stop" if "stop" in result else "length")


def test_results_in_a_file_and_prompts_from_standard_input(run, trained: Path, tmp_path: Path, monkeypatch) -> None:
    text = '{"prompt": "a"}\r\n\n{"prompt": "b"}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    done = run("generate", str(trained), "--batch", "-", "--out", "results.jsonl", "--tokens", "2", "--logprobs", "1")
    assert (done.status, done.out) == (0, "results.jsonl: 2 results\n")
    results = lines((tmp_path / "results.jsonl").read_text())
    assert [result["prompt"] for result in results] == ["a", "b"]
    assert [len(result["tokens"]) for result in results] == [2, 2]
    file = write_prompts(tmp_path, {"prompt": "c"})
    again = ("generate", str(trained), "--batch", str(file), "--out", "results.jsonl", "--tokens", "2")
    assert "already exists; name another file, or overwrite it with --force" in run(*again).err
    assert run(*again, "--force").status == 0
    assert len(lines((tmp_path / "results.jsonl").read_text())) == 1
    refused = run("generate", str(trained), "--batch", str(file), "--out", str(file), "--force")
    assert "is not a list of results that archlab wrote" in refused.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "prompts.jsonl:3: is not an object such as"),
        ("[1]", "prompts.jsonl:3: is not an object such as"),
        ("{}", "prompts.jsonl:3: has no 'prompt'"),
        ('{"promt": "a"}', "prompts.jsonl:3: has no 'prompt'; did you mean 'promt'?"),
        ('{"prompt": 1}', "prompts.jsonl:3: prompt is 1, and not a text"),
        ('{"prompt": ""}', "prompts.jsonl:3: the prompt is empty"),
        ('{"prompt": "\\ud800"}', "prompts.jsonl:3: prompt is '\\ud800', and not a text"),
        ('{"prompt": "a", "temprature": 1}', "prompts.jsonl:3: no setting 'temprature'; did you mean 'temperature'?"),
        ('{"prompt": "a", "tokens": 2.5}', "prompts.jsonl:3: tokens is 2.5, and not a whole number"),
        ('{"prompt": "a", "tokens": true}', "prompts.jsonl:3: tokens is True"),
        ('{"prompt": "a", "tokens": -1}', "prompts.jsonl:3: max_new_tokens -1 is below 0"),
        ('{"prompt": "a", "temperature": NaN}', "prompts.jsonl:3: temperature is nan"),
        ('{"prompt": "a", "top_p": 2}', "prompts.jsonl:3: top_p 2 is not above 0 and at most 1"),
        ('{"prompt": "a", "stop": ["b", 1]}', "prompts.jsonl:3: stop is ['b', 1], and not a text or a list of texts"),
        ('{"prompt": "a", "stop": ""}', "prompts.jsonl:3: a stop text is empty"),
        ('{"prompt": "a", "id": NaN}', "prompts.jsonl:3: id is nan"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' appears twice"),
        ('{"prompt": "a", "tokens": 99999}', "prompts.jsonl:3: a prompt of 1 tokens and 99999 new ones are more than"),
        ('{"prompt": "\udcff"}', "prompts.jsonl:3: is not UTF-8: byte 0xFF at 12"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, run, trained: Path, tmp_path: Path) -> None:
    text = f'{{"prompt": "good"}}\n\n{line}\n'
    (tmp_path / "prompts.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    done = run("generate", str(trained), "--batch", "prompts.jsonl")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err


def test_a_file_without_prompts(run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    assert "none.jsonl: has no prompts" in run("generate", str(trained), "--batch", "none.jsonl").err
    assert "nowhere: cannot be read: No such file" in run("generate", str(trained), "--batch", "nowhere").err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to continue: give --prompt TEXT, --batch FILE or --load-state FILE"),
        (("--prompt", "a", "--batch", "b"), "--batch and --prompt do not go together"),
        (("--save-state", "a", "--batch", "b"), "--batch and --save-state do not go together"),
        (("--prompt", "a", "--out", "b"), "--out is for the results of a --batch"),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], message: str, run, trained: Path) -> None:
    done = run("generate", str(trained), *options)
    assert (done.status, message in done.err) == (2, True)


def test_probabilities(run, trained: Path) -> None:
    options = ("--prompt", "3 times", "--tokens", "5", *GREEDY)
    tokens = lines(run("generate", str(trained), *options, "--logprobs").out)
    text = run("generate", str(trained), *options).out
    assert f"3 times{''.join(token['text'] for token in tokens)}\n" == text
    for token in tokens:
        assert token["logprob"] == max(best["logprob"] for best in token["best"])
        assert len(token["best"]) == 5
    assert "best" not in lines(run("generate", str(trained), *options, "--logprobs", "0").out)[0]


@pytest.mark.slow
def test_a_state_is_saved_and_continues(run, trained: Path, tmp_path: Path) -> None:
    whole = run("generate", str(trained), "--prompt", "3 times", "--tokens", "9", "--seed", "2").out
    first = run(
        "generate", str(trained), "--prompt", "3 times", "--tokens", "4", "--seed", "2", "--save-state", "state"
    )
    rest = run("generate", str(trained), "--tokens", "5", "--load-state", "state")
    assert first.out[:-1] + rest.out == whole
    refused = run("generate", str(trained), "--prompt", "x", "--save-state", "state")
    assert (refused.status, refused.err) == (
        2,
        "archlab: state: already exists; name another file, or overwrite it with --force\n",
    )
    assert run("generate", str(trained), "--prompt", "x", "--save-state", "state", "--force").status == 0
    (tmp_path / "state").write_bytes(b"x" * 99)
    assert "state: truncated, or not a safetensors file" in run("generate", str(trained), "--load-state", "state").err


def test_from_python(trained: Path) -> None:
    texts = [
        "".join(archlab.generate(trained, "3 times", max_new_tokens=6, seed=1)),
        "".join(token.text for token in archlab.generate_tokens(trained, "3 times", max_new_tokens=6, seed=1)),
        next(archlab.generate_batch(trained, ["3 times"], max_new_tokens=6, seed=1)).text,
    ]
    assert len(set(texts)) == 1
    with pytest.raises(archlab.ArchlabError, match="prompts is one text; give a list of texts"):
        archlab.generate_batch(trained, "3 times")
