from __future__ import annotations

from archlab import Count, Fraction, register

from ._in_context import Learn, PairsTask


@register("task", "noisy_recall")
class NoisyRecall(PairsTask):
    """In-context recall among pairs that are noise, MAD's noisy in-context recall (arXiv:2403.17844, 3.1).

    A share `noise` of the pairs is two words of a vocabulary of its own, the last `noise_vocab_size`; the others are as
    in the task in_context_recall, and so are the knobs.
    Raises ValueError for a vocabulary without a key or a value.
    """

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
