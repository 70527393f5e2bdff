"""B batch, T samples of a waveform, K harmonics, F formants."""

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

# Mean formants of ten vowels of 33 men in Hz: Peterson and Barney, 1952, table II.
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
WIDTHS = np.array([80, 100, 150])  # of the formants' resonances, in Hz
MAX_FREQUENCY = 3600.0  # of the harmonics, in Hz: above the highest formant of the smallest speaker


@register("task", "synthetic_speech")
class SyntheticSpeech(SampleTask):
    """Classify ten synthetic vowels by their waveforms: harmonics of a voice, shaped by formants, plus white noise.

    Inputs are waveforms [B, T] in [-1, 1], quantized to 16 bits, generated on demand: a function of the sample's index,
    the split and `data_seed`. Pitch, speaker size, loudness and phases are random.
    Raises ValueError if half of `sample_rate` is below the formants.

    Args:
        train_size: Number of training samples.
        eval_size: Number of validation samples, and of test samples.
        sample_rate: Sample rate in Hz.
        noise: Standard deviation of the noise relative to that of the voice; 0 is none.
        data_seed: Seed of the samples, independent of the run's seed.
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
        if sample_rate < 2 * MAX_FREQUENCY:
            raise ValueError(f"sample_rate {sample_rate} is less than {2 * MAX_FREQUENCY:g}: the formants do not fit")
        self.train_size, self.eval_size, self.sample_rate = train_size, eval_size, sample_rate
        self.noise, self.data_seed = noise, data_seed

    def size(self, split: str) -> int:
        """Return the number of samples of a split."""
        return self.train_size if split == "train" else self.eval_size

    def describe(self) -> dict[str, Any]:
        """Return the number of samples of each split."""
        return {"source": "made from the seed", **super().describe()}

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return waveforms [B, T] and vowels [B]."""
        waves = [self._synthesize(split, index, context) for index in indices]
        return torch.from_numpy(np.stack(waves)), torch.tensor(indices) % self.num_classes

    def _synthesize(self, split: str, index: int, length: int) -> NDArray[np.float32]:
        random = random_state(self.data_seed, SPLITS.index(split), index)
        pitch, speaker, loudness = random.uniform(90, 250), random.uniform(0.9, 1.15), random.uniform(0.05, 0.15)
        # The speaker's size moves all formants, and each varies by itself.
        formants = FORMANTS[index % self.num_classes] * speaker * random.uniform(0.97, 1.03, 3)
        harmonics_K = pitch * np.arange(1, int(MAX_FREQUENCY / pitch) + 1)
        phases_K = random.uniform(0, 2 * np.pi, len(harmonics_K))
        angles_TK = 2 * np.pi * harmonics_K * np.arange(length)[:, None] / self.sample_rate + phases_K
        voice_T = np.sin(angles_TK) @ _harmonic_amplitudes(harmonics_K, formants)
        noisy_T = voice_T / np.sqrt(np.mean(voice_T**2)) + self.noise * random.standard_normal(length)
        return (np.clip(np.rint(loudness * noisy_T * 2**15), -(2**15), 2**15 - 1) / 2**15).astype(np.float32)


def _harmonic_amplitudes(harmonics_K: NDArray[Any], formants_F: NDArray[Any]) -> NDArray[Any]:
    """Return the amplitude of each harmonic: resonances at the formants, on a source that falls with frequency."""
    distance_KF = (harmonics_K[:, None] - formants_F) / WIDTHS
    return (1 / (1 + distance_KF**2)).sum(1) / np.sqrt(harmonics_K)
