"""B batch, T samples, K harmonics, F formants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import Count, NonNegative, register
from archlab.components.task._samples import SampleTask, Visit
from archlab.data.sampling import random_state
from archlab.data.splits import SPLITS

# The mean formants of ten vowels of 33 men, in hertz: Peterson and Barney, 1952, table II.
FORMANTS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ]
)
WIDTHS = np.array([80, 100, 150])
HIGHEST = 3600.0


@register("task", "synthetic_speech")
class SyntheticSpeech(SampleTask):
    """Tell ten vowels apart by their waves: harmonics of a voice, shaped by formants, with white noise over them.

    Inputs are waves [B, T] from -1 to 1, in steps of 16 bits, made on the spot: sample number, split and `data_seed`
    say all. Each has its own pitch, size of the speaker, loudness and phases; `noise` is relative to the voice.
    Raises ValueError where `sample_rate` cannot hold the formants.
    """

    num_classes = len(FORMANTS)

    def __init__(
        self,
        *,
        train_size: Count = 4000,
        eval_size: Count = 500,
        sample_rate: Count = 8000,
        noise: NonNegative = 0.1,
        data_seed: Count = 1,
    ) -> None:
        if sample_rate < 2 * HIGHEST:
            raise ValueError(f"sample_rate {sample_rate} is less than {2 * HIGHEST:g}: the formants do not fit")
        self.train_size, self.eval_size, self.sample_rate = train_size, eval_size, sample_rate
        self.noise, self.data_seed = noise, data_seed

    def size(self, split: str) -> int:
        """Return the number of waves of a split."""
        return self.train_size if split == "train" else self.eval_size

    def describe(self) -> dict[str, Any]:
        """Return how many waves there are."""
        return {"source": "made from the seed", **super().describe()}

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return waves [B, T] and vowels [B]."""
        waves = [self._wave(split, number, context) for number in numbers]
        return torch.from_numpy(np.stack(waves)), torch.tensor(numbers) % self.num_classes

    def _wave(self, split: str, number: int, length: int) -> NDArray[np.float32]:
        random = random_state(self.data_seed, SPLITS.index(split), number)
        pitch, speaker, loudness = random.uniform(90, 250), random.uniform(0.9, 1.15), random.uniform(0.05, 0.15)
        formants = FORMANTS[number % self.num_classes] * speaker * random.uniform(0.97, 1.03, 3)
        harmonics_K = pitch * np.arange(1, int(HIGHEST / pitch) + 1)
        phases_K = random.uniform(0, 2 * np.pi, len(harmonics_K))
        angles_TK = 2 * np.pi * harmonics_K * np.arange(length)[:, None] / self.sample_rate + phases_K
        voice_T = np.sin(angles_TK) @ _amplitudes(harmonics_K, formants)
        noisy_T = voice_T / np.sqrt(np.mean(voice_T**2)) + self.noise * random.standard_normal(length)
        return (np.clip(np.rint(loudness * noisy_T * 2**15), -(2**15), 2**15 - 1) / 2**15).astype(np.float32)


def _amplitudes(harmonics_K: NDArray[Any], formants_F: NDArray[Any]) -> NDArray[Any]:
    """Return how loud each harmonic is: resonances at the formants, on a voice that falls with the frequency."""
    distance_KF = (harmonics_K[:, None] - formants_F) / WIDTHS
    return (1 / (1 + distance_KF**2)).sum(1) / np.sqrt(harmonics_K)
