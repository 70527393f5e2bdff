"""Fields of config.json that no format reads: which of them leave the model's function as it is.

transformers ignores every field that a class does not know. archlab does not: a misspelled `num_attention_head`, or a
field of a later version, may change the model. Accepted fields are listed here, or at a value that turns a feature off.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from archlab.errors import did_you_mean, nearest

# fmt: off
# Fields of storing, initializing, training or calling a model, which do not change its function.
_DESCRIPTIONS = {
    "adapters", "architectures", "auto_map", "_commit_hash", "custom_pipelines", "_diffusers_version", "dtype",
    "finetuning_task", "_from_model_config", "id2label", "is_composition", "is_llama_config", "label2id", "license",
    "mlx_version", "model_name", "model_type", "_name_or_path", "name_or_path", "num_labels", "problem_type",
    "task_specific_params", "torch_dtype", "transformers.js_config", "transformers_version", "unsloth_fixed",
    "unsloth_version",
}
_TOKENS = {
    "bos_token", "bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token", "eos_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "ignore_index", "mask_token_id", "max_seq_len",
    "max_sequence_length", "model_max_length", "n_ctx", "pad_token", "pad_token_id", "pad_vocab_size_multiple",
    "prefix", "sep_token_id", "seq_length", "tokenizer_class", "tokenizer_model_max_length", "tokenizer_padding_side",
    "unk_token", "unk_token_id", "vocab_size_multiple",
}
_CALLS = {
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "cache_implementation", "chunk_size_feed_forward", "device_map", "experts_implementation",
    "_experts_implementation", "_flash_attn_2_enabled", "fused_add_norm", "gradient_checkpointing", "logits_to_keep",
    "num_logits_to_keep", "_output_attentions", "output_attentions", "output_hidden_states", "output_past",
    "return_dict", "torchscript", "tp_plan", "use_cache", "use_flash_attention", "_use_flash_attention_2",
    "use_flash_attention_2", "use_flash_attn", "use_fused_kernels", "use_mem_eff_path",
    "use_memory_efficient_attention", "use_sdpa", "use_xformers",
}
_TRAINING = {
    "aux_loss_coef", "init_std", "initializer_cutoff_factor", "initializer_factor", "initializer_range", "loss_type",
    "reduction", "router_aux_loss_coef", "training_args", "z_loss", "z_loss_coefficient",
}
_GENERATION = {
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "generation_config", "length_penalty",
    "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
    "suppress_tokens", "temperature", "tf_legacy_loss", "top_k", "top_p", "typical_p",
}
# fmt: on
HARMLESS = _DESCRIPTIONS | _TOKENS | _CALLS | _TRAINING | _GENERATION

# The values at which a feature that archlab does not have is off.
_OFF: dict[str, tuple[Any, ...]] = {
    "embedding_multiplier": (1,),
    "expert_layer_period": (0,),
    "logits_scaling": (1,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "partial_rotary_factor": (1,),
    "residual_multiplier": (1,),
    "rms_norm": (True,),
    "rope_interleaved": (False,),
    "rotary_pct": (1,),
    "tie_encoder_decoder": (False,),
}
# A false here would turn off a feature of every model, rather than one that this model lacks.
_ESSENTIAL = ("causal", "norm", "position", "residual", "rope", "rotary", "scale")
_TYPO = 0.8  # how alike a misspelled name is: `tie_word_embedding`, and not `resid_dropout` for `attention_dropout`
_QUANTIZED = ("quantization", "quantization_config", "compression_config", "quant_method")


def problem_of(field: str, value: Any, known: Collection[str]) -> str:
    """Return why a field that no format reads cannot be ignored, or ""."""
    # A null is transformers' way to leave a field out, also one that another version knows.
    if value is None or field in HARMLESS:
        return ""
    if field in _QUANTIZED:
        return f"{field}: quantized weights are not read; convert them to float32, float16 or bfloat16 and leave it out"
    if field in _OFF:
        passing = " or ".join(map(repr, _OFF[field]))
        return "" if value in _OFF[field] else f"{field} {value!r}: not represented, only {passing} is"
    is_misspelled = nearest(field, known, cutoff=_TYPO) is not None
    if _is_off(field, value) and not is_misspelled:
        return ""
    advice = did_you_mean(field, known) if is_misspelled else f"; it passes at {_off_value(field, value)}"
    return f"unknown field {field!r}, here {value!r}{advice}"


def _is_off(field: str, value: Any) -> bool:
    if value is False:
        return not any(word in field for word in _ESSENTIAL)
    is_rate = "drop" in field and isinstance(value, int | float)
    return value in ([], {}, "") or (is_rate and value == 0)


def _off_value(field: str, value: Any) -> str:
    if "drop" in field and isinstance(value, int | float):
        return "0"
    return "false" if value is True and _is_off(field, False) else "null"
