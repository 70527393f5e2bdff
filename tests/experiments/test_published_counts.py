"""Full-size experiments have exactly as many parameters as the published models."""

import pytest

from archlab.config import experiment
from archlab.modeling.build import build_on_meta, count_parameters

PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "mistral_7b": 7_241_732_096,
    "mixtral_8x7b": 46_702_792_704,
    "olmoe_1b_7b": 6_919_161_856,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gemma2_2b": 2_614_341_888,
    "gemma3_1b": 999_885_952,
    "qwen3_0b6": 596_049_920,
    "qwen3_8b": 8_190_735_360,
    "qwen3_moe_30b_a3b": 30_532_122_624,
    "qwen2_moe_14b_a2b7": 14_315_784_192,
    "recurrentgemma_2b": 2_682_862_080,
    "gpt_oss_20b": 20_914_757_184,
    "deepseek_v3_671b_a37b": 671_026_404_352,
    "kimi_linear_48b_a3b": 49_122_675_072,
    "qwen3_next_80b_a3b": 79_674_391_296,
    "jamba_52b_a12b": 51_570_323_328,
    "minimax_text_456b_a46b": 456_089_655_296,
    "lfm2_1b2": 1_170_340_608,
    "falcon_h1_0b5": 521_411_104,
    "nemotron_h_8b": 8_100_852_736,
    "nemotron_h_30b_a3b": 31_577_937_344,
    "samba_1b3": 1_330_207_488,
    "xlstm_7b": 6_865_424_896,
    "mpt_7b": 6_649_286_656,
    "mamba_130m": 129_135_360,
    "mamba_2b8": 2_768_345_600,
    "rwkv4_169m": 169_342_464,
    "rwkv4_7b": 7_392_649_216,
    "rwkv7_0b1": 191_034_624,
    "rwkv7_1b5": 1_527_404_544,
    "deit_b": 86_567_656,
    "adaptive_transformer_wt103": 246_933_504,
    "mega_wt103": 252_180_480,
    "megalodon_7b": 7_385_817_088,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), PUBLISHED.items(), ids=PUBLISHED)
def test_a_published_model_has_its_size(name: str, count: int) -> None:
    assert count_parameters(build_on_meta(experiment.load(name).model)) == count
