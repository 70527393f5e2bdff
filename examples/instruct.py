"""Teach an export to answer questions, by trl's SFTTrainer.

    python examples/instruct.py EXPORT OUT [ANSWERS.jsonl]

EXPORT is an export of archlab's for transformers, and each line of the file is
{"prompt": "...", "completion": "..."}. Without a file the questions are about
numbers. One in ten is held out, and asked before and after. Needs archlab[tune].
"""

import json
import random
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

# A question and its answer, as Vicuna writes them. It ends with the token that ends a text, or else with its line.
TEMPLATE = """\
{%- set end = eos_token or '\n' -%}
{%- for message in messages -%}
{{ message.role.upper() }}: {{ message.content }}{{ end if message.role == 'assistant' else '\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif -%}
"""


def questions_about_numbers() -> list[dict[str, str]]:
    """Return questions that can be answered for numbers that were never seen."""
    rows = []
    for number in random.Random(0).sample(range(10, 10_000), 1500):
        rows.append({"prompt": f"Is {number} even?", "completion": "No." if number % 2 else "Yes."})
        rows.append({"prompt": f"What does {number} end with?", "completion": f"{number % 10}."})
    random.Random(1).shuffle(rows)
    return rows


def as_messages(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return a row in the form that trl reads: messages, of which the completion's alone are learned."""
    roles = {"prompt": "user", "completion": "assistant"}
    return {side: [{"role": role, "content": row[side]}] for side, role in roles.items()}


@torch.inference_mode()
def share_right(model, tokenizer, rows: list[dict[str, str]]) -> float:
    """Return the share of questions that the model answers word for word, in batches padded on the left."""
    right = 0
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        prompts = [as_messages(row)["prompt"] for row in batch]
        inputs = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        new = model.eval().generate(**inputs, max_new_tokens=48, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        answers = tokenizer.batch_decode(new, skip_special_tokens=True)
        right += sum(text.strip() == row["completion"].strip() for text, row in zip(answers, batch, strict=True))
    return right / len(rows)


def main(export: str, out: str, answers: str | None = None) -> None:
    """Tune the model and print its answers before and after."""
    set_seed(0)
    rows = (
        [json.loads(line) for line in Path(answers).read_text().splitlines()] if answers else questions_about_numbers()
    )
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    model = AutoModelForCausalLM.from_pretrained(export, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    if tokenizer.eos_token is None:
        model.generation_config.eos_token_id = tokenizer("\n")["input_ids"][-1]
    before = share_right(model, tokenizer, held_out)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([as_messages(row) for row in rows]),
        args=SFTConfig(
            out,
            learning_rate=1e-3,
            per_device_train_batch_size=32,
            num_train_epochs=2,
            warmup_steps=10,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available(),
        ),
    )
    trainer.train()
    trainer.save_model()
    after = share_right(model, tokenizer, held_out)
    print(f"{len(held_out)} held-out questions: {before:.0%} right before, {after:.0%} after")
    print(f"next: archlab import {out} --out CHECKPOINT, or transformers serve {out} --trust-remote-code")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
