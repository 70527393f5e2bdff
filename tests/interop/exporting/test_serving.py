"""`transformers serve` serves an export to the client of openai: whole, streamed, several at once, broken off."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_export_formats import publish

import archlab
from archlab.interop.exporting import export as exporting

pytestmark = pytest.mark.services
SMALL = ["model.dim=64", "model.layers[0].repeat=2", "model.layers[0].mixer.value_dim=128"]
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
PROMPT, OTHERS = "def f(x):", ["import os", "Ā 漢字", "a"]
READY_S = 180


class Server:
    """A served export, and what asks it."""

    def __init__(self, folder: Path, port: int) -> None:
        openai = pytest.importorskip("openai", reason="the endpoint is asked by openai's client")
        url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        self.model, self.health = str(folder), f"{url}/health"

    def complete(self, prompt: str, **options: object) -> str:
        made = self.client.completions.create(model=self.model, prompt=prompt, max_tokens=12, temperature=0, **options)
        return made.choices[0].text

    def is_ready(self) -> bool:
        try:
            return urllib.request.urlopen(self.health, timeout=5).status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Megalodon that was given a template of conversations."""
    folder = tmp_path_factory.mktemp("served")
    publish(archlab.load("megalodon_tiny", SMALL), folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "prove", lambda *arguments: "")
        out = exporting.export(folder / "run", folder / "out")
    config = json.loads((out / "tokenizer_config.json").read_text()) | {"chat_template": TEMPLATE}
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module", params=[[], ["--continuous-batching"]], ids=["plain", "asked to page"])
def server(
    request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason="transformers serve needs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("hf")
    (home / "hub").mkdir()
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    program = [str(Path(sys.executable).with_name("transformers")), "serve", str(exported), "--trust-remote-code"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *request.param]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen([*program, *options], env=env, stdout=log, stderr=log) as process,
    ):
        try:
            made, ends = Server(exported, port), time.monotonic() + READY_S
            while not made.is_ready():
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < ends, (home / "log").read_text()
                time.sleep(0.2)
            yield made
        finally:
            process.terminate()


def test_a_stream_is_what_a_whole_answer_is(server: Server) -> None:
    whole = server.complete(PROMPT)
    parts = server.client.completions.create(
        model=server.model, prompt=PROMPT, max_tokens=12, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == whole


def test_several_requests_at_once_give_what_each_gives_alone(server: Server) -> None:
    alone = [server.complete(prompt) for prompt in (PROMPT, *OTHERS)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(server.complete, (PROMPT, *OTHERS))) == alone


def test_a_stream_that_is_broken_off_ends_and_the_next_is_answered(server: Server) -> None:
    expected = server.complete(PROMPT)
    endless = server.client.completions.create(
        model=server.model, prompt=PROMPT, max_tokens=1_000_000, temperature=0, stream=True
    )
    assert next(iter(endless)).choices
    endless.close()
    assert server.complete(PROMPT) == expected  # which would have to wait for a million tokens


def test_a_conversation_has_the_template_of_the_tokenizer(server: Server) -> None:
    messages = [{"role": "user", "content": "two and two?"}]
    said = server.client.chat.completions.create(model=server.model, messages=messages, max_tokens=12, temperature=0)
    assert said.choices[0].message.content == server.complete("user: two and two?\nassistant: ")
