from __future__ import annotations

from archlab import Count, register

from ._in_context import Learn, PairsTask


@register("task", "in_context_recall")
class InContextRecall(PairsTask):
    """Recall the value that a key had before in a row of pairs, MAD's in-context recall (arXiv:2403.17844, 3.1).

    Keys are the first half of the words, values the second; in each sample a key always has the same value. Every
    value of a repeated key is asked for, or, without `multi_query`, the last, behind word vocab_size - 1. Training
    learns `every_word` that comes next, as in MAD, or the `answers` alone.
    Raises ValueError for a vocabulary without a key or a value.
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
