from __future__ import annotations

from typing import ClassVar

from archlab import Count, Fraction, register

from ._in_context import Learn, PairsTask


@register("task", "noisy_recall")
class NoisyRecall(PairsTask):
    """Recall values among pairs that are noise, MAD's noisy in-context recall (arXiv:2403.17844, 3.1).

    Pairs that are noise are two tokens of a vocabulary of their own, the last tokens before the query token; the other
    pairs are those of the task in_context_recall. Raises ValueError for a vocabulary without a key or a value.

    Args:
        vocab_size: Number of tokens: keys, values, noise, and the query token, vocab_size - 1, unless `multi_query`.
        noise_vocab_size: Number of tokens of the noise.
        noise: Fraction of the pairs that are noise.
        multi_query: Whether the value of every repeated key is a target; otherwise only that of the last pair.
        learn: Targets of training: `every_word` for every next token, as in MAD, or `answers` for the values alone.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
    """

    difficulties: ClassVar = {"noise": (0.2, 0.4, 0.6, 0.8), "context": (128, 256, 512, 1024)}

    def __init__(
        self,
        *,
        vocab_size: Count = 32,
        noise_vocab_size: Count = 16,
        noise: Fraction = 0.2,
        multi_query: bool = True,
        learn: Learn = "every_word",
        train_size: Count | None = 12800,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        sizes = (train_size, eval_size, data_seed)
        super().__init__("noisy_recall", vocab_size, noise_vocab_size, noise, multi_query, learn, sizes)
