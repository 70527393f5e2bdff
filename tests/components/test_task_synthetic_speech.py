"""Synthetic vowels are reproducible, and different in every split."""

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.synthetic_speech import FORMANTS, SyntheticSpeech
from archlab.config.registry import find

SPLITS = ("train", "validation", "test")


def small(**knobs) -> SyntheticSpeech:
    return SyntheticSpeech(**({"train_size": 40, "eval_size": 20} | knobs))


def test_it_is_known_to_yaml() -> None:
    assert find("task", "synthetic_speech").cls is SyntheticSpeech
    assert (small().num_outputs, small().vocab_size, small().per_sample) == (10, None, True)
    assert small().describe()["samples"] == {"train": 40, "validation": 20, "test": 20}


def test_a_batch_depends_on_its_arguments_alone() -> None:
    waves, vowels = small().batch("train", 3, 5, 100, 7)
    assert (waves.shape, waves.dtype, vowels.shape) == ((5, 100), torch.float32, (5,))
    assert small().example_inputs(5, 100, "cpu").shape == waves.shape
    assert torch.equal(small().batch("train", 3, 5, 100, 7)[0], waves)
    assert not torch.equal(small().batch("train", 3, 5, 100, 8)[0], waves)
    assert not torch.equal(small(data_seed=2).batch("train", 3, 5, 100, 7)[0], waves)


def test_the_waves_never_change() -> None:
    waves, vowels = small().batch("train", 0, 3, 6, 0)
    assert vowels.tolist() == [4, 9, 2]
    assert (waves * 2**15).int().tolist() == [
        [4431, 740, -1455, -3078, 1825, 5359],
        [-2692, -1993, -636, -284, -1492, -1603],
        [5546, 2270, 583, 3143, 3306, 831],
    ]


def test_splits_share_no_wave() -> None:
    seen = [{tuple(x.tolist()) for x in next(small().eval_batches(split, 40, 50))[0]} for split in SPLITS]
    assert [len(split) for split in seen] == [40, 20, 20]
    assert not any(one & other for one, other in zip(seen, [*seen[1:], seen[0]], strict=True))


def test_an_epoch_visits_every_wave_once() -> None:
    batches = [small().batch("train", step, 8, 30, 0) for step in range(5)]
    assert len({tuple(x.tolist()) for waves, _ in batches for x in waves}) == 40
    assert sorted(torch.cat([vowels for _, vowels in batches]).tolist()) == sorted([*range(10)] * 4)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluation_sees_the_same_waves_whatever_the_batch(batch_size: int) -> None:
    batches = list(small().eval_batches("test", batch_size, 60, 500))
    assert len({waves.shape for waves, _ in batches}) == 1
    kept = torch.cat([waves[vowels != -100] for waves, vowels in batches])
    assert torch.equal(kept, next(small().eval_batches("test", 20, 60))[0][:9])


def test_a_longer_context_continues_the_same_sound() -> None:
    (short, _), (long, _) = (small(noise=0.0).batch("train", 0, 8, context, 0) for context in (1000, 4000))
    ratio = short / long[:, :1000]
    spread = ratio.nanquantile(0.75, 1) - ratio.nanquantile(0.25, 1)
    assert (spread < 0.02).all()


@pytest.mark.slow
def test_the_voice_is_loud_at_its_formants() -> None:
    task = small(noise=0.0, train_size=200)
    for number in range(10):
        waves = np.stack([task._synthesize("train", number + 10 * speaker, 4000) for speaker in range(20)])
        power = (np.abs(np.fft.rfft(waves, axis=1)) ** 2).mean(0)
        near = np.abs(np.fft.rfftfreq(4000, 1 / 8000)[:, None] - FORMANTS[number] * 1.02).min(1) < 200
        assert power[near].sum() > 0.5 * power.sum()


def test_noise_is_relative_to_the_voice() -> None:
    clean, noisy = (small(noise=noise).batch("train", 0, 8, 4000, 0)[0] for noise in (0.0, 0.5))
    ratio = (noisy - clean).square().mean(1) / clean.square().mean(1)
    torch.testing.assert_close(ratio, torch.full((8,), 0.25), rtol=0.1, atol=0)
    assert small().batch("train", 0, 8, 4000, 0)[0].abs().max() < 1


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_rate 7199 is less than 7200: the formants do not fit"):
        small(sample_rate=7199)
    with pytest.raises(ArchlabError, match="no split 'all'"):
        small().batch("all", 0, 1, 10, 0)
    small().check(10)
