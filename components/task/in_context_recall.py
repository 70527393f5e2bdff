from __future__ import annotations

from archlab import Count, register

from ._in_context import Learn, PairsTask


@register("task", "in_context_recall")
class InContextRecall(PairsTask):
    """Recall the value that a key had earlier in a sequence of pairs, MAD's in-context recall (arXiv:2403.17844, 3.1).

    Keys are the first half of the tokens, values the second; within a sample a key always has the same value.
    Raises ValueError for a vocabulary without a key or a value.

    Args:
        vocab_size: Number of tokens: keys, values, and the query token, vocab_size - 1, unless `multi_query`.
        multi_query: Whether the value of every repeated key is a target; otherwise only that of the last pair.
        learn: Targets of training: `every_word` for every next token, as in MAD, or `answers` for the values alone.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 16,
        multi_query: bool = True,
        learn: Learn = "every_word",
        train_size: Count | None = 12800,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        sizes = (train_size, eval_size, data_seed)
        super().__init__("in_context_recall", vocab_size, 0, 0.0, multi_query, learn, sizes)
