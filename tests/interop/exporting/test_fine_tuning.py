"""The Trainer of transformers trains an export, in a process that has no archlab."""

from pathlib import Path

import pytest
from conftest import Tiny
from test_export_formats import publish, run_python

from archlab.interop.exporting.export import export

TRAIN = """
import sys
sys.modules["archlab"] = None
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokens = list(b"one and one is two. " * 8)
rows = [{"input_ids": tokens[at : at + 32], "labels": tokens[at : at + 32]} for at in range(16)]
arguments = TrainingArguments(
    out, max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2,
    logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
)
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
assert len(losses) == 6 and losses[-1] < 0.8 * losses[0], losses
trainer.save_model(out)
saved = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
inputs = torch.tensor([tokens[:32]])
torch.testing.assert_close(saved(inputs).logits, model.eval()(inputs).logits)
assert saved(inputs, labels=inputs).loss < 0.9 * losses[0]
"""


@pytest.mark.services
def test_a_trainer_trains_an_export(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    out = export(publish(tiny(), tmp_path / "run"), tmp_path / "out")
    run_python(TRAIN, out, tmp_path / "trained", home=tmp_path / "hf")
