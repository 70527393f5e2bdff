"""Teach an export which of two answers is preferred, by trl's DPOTrainer.

    python examples/align.py EXPORT OUT [PAIRS.jsonl]

EXPORT is what instruct.py has written, and each line of the file is
{"prompt": "...", "chosen": "...", "rejected": "..."}. Without a file the
questions are those of instruct.py, and wrong answers are rejected. One pair in
ten is held out. Needs archlab[tune].
"""

import json
import random
import sys
from pathlib import Path

import torch
from datasets import Dataset
from instruct import questions_about_numbers, share_right
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer


def pairs_about_numbers() -> list[dict[str, str]]:
    """Return each question with its answer, and with one that is wrong."""
    draw = random.Random(2)
    pairs = []
    for row in questions_about_numbers():
        answers = ("Yes.", "No.") if row["prompt"].startswith("Is") else [f"{digit}." for digit in range(10)]
        wrong = draw.choice([answer for answer in answers if answer != row["completion"]])
        pairs.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": wrong})
    return pairs


def as_messages(pair: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return a pair in the form that trl reads."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {side: [{"role": role, "content": pair[side]}] for side, role in roles.items()}


def main(export: str, out: str, pairs: str | None = None) -> None:
    """Align the model and print its answers before and after."""
    set_seed(0)
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()] if pairs else pairs_about_numbers()
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    model, reference = (AutoModelForCausalLM.from_pretrained(export, trust_remote_code=True) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([as_messages(row) for row in rows]),
        eval_dataset=Dataset.from_list([as_messages(row) for row in held_out]),
        args=DPOConfig(
            out,
            beta=0.1,
            learning_rate=1e-4,
            per_device_train_batch_size=16,
            num_train_epochs=1,
            warmup_steps=10,
            lr_scheduler_type="cosine",
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available(),
        ),
    )
    answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in held_out]
    before = share_right(model, tokenizer, answers)
    trainer.train()
    trainer.save_model()
    after, ranked = share_right(model, tokenizer, answers), trainer.evaluate()["eval_rewards/accuracies"]
    print(f"{len(held_out)} held-out questions: {before:.0%} right before, {after:.0%} after")
    print(f"of {len(held_out)} held-out pairs the chosen answer has gained more than the rejected one in {ranked:.0%}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
