"""trl tunes exports, and what it tunes comes back; losses are those of each text alone, however they are batched."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_export_formats import publish, run_python

import archlab
from archlab.interop.exporting import export as exporting
from archlab.modeling.build import build
from archlab.storage.checkpoint import save_model

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("unproved")]
EXAMPLES = Path(__file__).parents[3] / "examples"
SMALL = {
    "megalodon_tiny": ["model.dim=64", "model.layers[0].repeat=2", "model.layers[0].mixer.value_dim=128"],
    "hybrid_tiny": ["model.dim=64"],
    "llama2_tiny": ["model.dim=64"],
}
LOSSES = """
import sys
sys.modules["archlab"] = None
import torch
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

TEXTS = [list(b"USER: two and two? ASSISTANT: four"), list(b"one"), list(b"USER: and 3 by 7? ASSISTANT: 21.")]
num_targets = sum(len(text) - 1 for text in TEXTS)
packed = torch.tensor([sum(TEXTS, [])])
positions = torch.tensor([[at for text in TEXTS for at in range(len(text))]])

def padded(pad, at_left):
    rows, longest = {"input_ids": [], "attention_mask": [], "labels": []}, max(map(len, TEXTS))
    for text in TEXTS:
        fill = longest - len(text)
        own_rows = (("input_ids", pad, text), ("attention_mask", 0, [1] * len(text)), ("labels", -100, text))
        for name, value, own in own_rows:
            rows[name].append([value] * fill + own if at_left else own + [value] * fill)
    return {name: torch.tensor(row) for name, row in rows.items()}

def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

def refused(call, problem):
    try:
        call()
    except (TypeError, ValueError) as error:
        assert problem in str(error), error
    else:
        raise AssertionError(f"nothing was refused: {problem}")

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float64).train()
alone = [model(torch.tensor([text]), labels=torch.tensor([text])).loss for text in TEXTS]
expected = sum(loss * (len(text) - 1) for loss, text in zip(alone, TEXTS)) / num_targets
expected_gradients = gradients(model, expected)
features = torch.cat([model.base_model(torch.tensor([text])).last_hidden_state[0] for text in TEXTS])
add_fused_lm_head(model)
ways = {
    "right": padded(model.config.padding_id, False),
    "left": padded(model.config.padding_id, True),
    "packed": {"input_ids": packed, "position_ids": positions, "labels": packed},
}
for name, inputs in ways.items():
    kept = inputs.get("attention_mask", torch.ones_like(packed)).bool()
    given = {key: value for key, value in inputs.items() if key != "labels"}
    torch.testing.assert_close(model.base_model(**given).last_hidden_state[kept], features, rtol=0, atol=1e-10)
    # Losses are computed in float32, by both. trl, which fuses the head, leaves out the first tokens itself.
    firsts = positions == 0 if name == "packed" else kept.cumsum(1) == 1
    for options in ({}, {"fused_lm_head": True}):
        labels = inputs["labels"].masked_fill(firsts, -100) if options else inputs["labels"]
        for change in (model.activation_checkpointing_disable, model.activation_checkpointing_enable):
            change()
            loss = model(**{**inputs, "labels": labels}, use_cache=False, **options).loss
            assert abs(loss.item() - expected.item()) < 1e-6, (name, options, change)
            torch.testing.assert_close(gradients(model, loss), expected_gradients, rtol=0, atol=1e-5)
with torch.no_grad():
    other = packed.clone()
    other[0, : len(TEXTS[0])] = 7
    one, two = (model(tokens, position_ids=positions).logits[0, len(TEXTS[0]) :] for tokens in (packed, other))
    assert torch.equal(one, two)
    few = model(packed, logits_to_keep=torch.tensor([3, 5])).logits
    torch.testing.assert_close(few, model(packed).logits[:, [3, 5]])
assert model.resize_token_embeddings(256) is model.get_input_embeddings()
refused(lambda: model.resize_token_embeddings(258), "it cannot have 258")
refused(lambda: model(packed, position_ids=positions + 1), "do not count 0, 1, 2")
refused(lambda: model(packed, position_ids=positions, attention_mask=torch.ones_like(packed)), "divide rows")
refused(lambda: model(packed, inputs_embeds=1), "has no inputs_embeds")
assert not hasattr(model, "init_continuous_batching")
"""
LOGITS = """
import sys
sys.modules["archlab"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = torch.randint(256, (2, 31), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    save_file({"tokens": tokens, "logits": model(tokens).logits}, sys.argv[2])
"""
PACKED = """
import sys
sys.modules["archlab"] = None
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
tokenizer.eos_token = "~"
rows = [{"text": f"{number} and one is {number + 1}."} for number in range(40)]
losses = {}
for packing in (False, True):
    options = {"packing": packing, "eval_packing": packing, "max_length": 96, "bf16": False, "report_to": "none"}
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=data, eval_dataset=data,
        args=SFTConfig(out, per_device_eval_batch_size=40, disable_tqdm=True, **options),
    )
    losses[packing] = trainer.evaluate()["eval_loss"]
assert abs(losses[True] - losses[False]) < 1e-5, losses
"""


@pytest.fixture(scope="module", autouse=True)
def _has_trl() -> None:
    pytest.importorskip("trl", reason="these tests tune by trl")


@pytest.mark.parametrize("name", SMALL)
def test_neither_padding_nor_packing_nor_recomputing_changes_a_loss(name: str, tmp_path: Path) -> None:
    publish(archlab.load(name, SMALL[name]), tmp_path / "run")
    run_python(LOSSES, exporting.export(tmp_path / "run", tmp_path / "out"), home=tmp_path / "hf")


def test_documents_that_trl_packs_do_not_leak(tmp_path: Path) -> None:
    publish(archlab.load("megalodon_tiny", SMALL["megalodon_tiny"]), tmp_path / "run")
    out = exporting.export(tmp_path / "run", tmp_path / "out")
    run_python(PACKED, out, tmp_path / "tuned", home=tmp_path / "hf")


def write_questions(answers: Path, pairs: Path) -> None:
    draw = random.Random(0)
    numbers = [draw.randrange(10, 10_000) for _ in range(1100)]
    right = {f"Is {number} even?": "No." if number % 2 else "Yes." for number in numbers}
    rows = [{"prompt": question, "completion": answer} for question, answer in right.items()]
    answers.write_text("\n".join(map(json.dumps, rows)))
    # An answer that repeats itself is worse: that, a model can learn which has not learned numbers.
    said_twice = [{"prompt": each, "chosen": right[each], "rejected": f"{right[each]} {right[each]}"} for each in right]
    rows = said_twice[:400]
    pairs.write_text("\n".join(map(json.dumps, rows)))


def run_example(name: str, *arguments: object, home: Path) -> list[float]:
    """Return the percentages that an example prints."""
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return [float(number) for number in re.findall(r"(\d+)%", done.stdout.partition("held-out")[2])]


@pytest.mark.parametrize("name", SMALL)
def test_an_export_is_instructed_and_aligned_and_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    experiment = archlab.load(name, SMALL[name])
    tokens = experiment.task.factory()().model_tokens()
    save_model(tmp_path / "run", build(experiment.model), experiment.resolved, {}, tokens)
    exporting.export(tmp_path / "run", tmp_path / "out")
    write_questions(tmp_path / "answers.jsonl", tmp_path / "pairs.jsonl")
    home, instructed, aligned = tmp_path / "hf", tmp_path / "instructed", tmp_path / "aligned"
    before, after = run_example("instruct.py", tmp_path / "out", instructed, tmp_path / "answers.jsonl", home=home)
    assert after > before + 30
    _, kept, ranked = run_example("align.py", instructed, aligned, tmp_path / "pairs.jsonl", home=home)
    assert kept > before + 30
    assert ranked > 60
    run_python(LOGITS, aligned, tmp_path / "logits", home=home)
    stored = load_file(tmp_path / "logits")
    model = archlab.load_model(archlab.import_checkpoint(aligned, tmp_path / "back"))
    torch.testing.assert_close(model(stored["tokens"])[0], stored["logits"], rtol=0, atol=1e-5)
