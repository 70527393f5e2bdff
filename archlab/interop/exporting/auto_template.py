# mypy: ignore-errors
"""NAME for transformers: `AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)`.

The model itself is in MODELING.py. B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .MODELING import build, weight_files

FORMAT = 1  # of these files; a later one is refused by its number
# Arguments passed along with rows of several documents; the others repeat the first one.
PACKING = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


class ArchlabConfig(PretrainedConfig):
    """The methods that transformers requires of every model; the architecture is code, described by config.yaml."""

    model_type = "archlab"

    def __init__(self, archlab_format: int = FORMAT, padding_id: int | None = None, **fields) -> None:
        if archlab_format != FORMAT:
            raise ValueError(f"config.json: archlab_format {archlab_format} is not {FORMAT}, which this file reads")
        self.archlab_format, self.padding_id = archlab_format, padding_id
        super().__init__(**fields)


class StateCache(Cache):
    """The model's recurrent state, a mapping of tensors [B, ...]; each row has read as many tokens as it has read.

    Speculation takes tokens back. A recurrent state has no way back, so while past is recorded the state before each
    call is kept; `crop` returns to one, and leaves the call's tokens that stay to be read again with the next ones.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.state: dict[str, Tensor] | None = None
        self.num_tokens = 0  # of the longest row, padding included
        self.to_read: tuple[Tensor, Tensor] | None = None  # tokens [B, T] that the state lacks, and which are kept
        self._past: list[tuple] | None = None  # of each call since the last crop: state, tokens, which are kept

    is_compileable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many positions of `input_ids` were read."""
        return self.num_tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return that there is no maximum."""
        return -1

    get_max_cache_shape = get_max_length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows of these indices, in their order."""
        self._for_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._for_rows(lambda x: x.repeat_interleave(repeats, 0))

    def _for_rows(self, change) -> None:
        if self.state is not None:
            self.state = {name: change(x) for name, x in self.state.items()}
        if self.to_read is not None:
            self.to_read = (change(self.to_read[0]), change(self.to_read[1]))
        self._past = None if self._past is None else []  # of other rows

    def reset(self) -> None:
        """Start over."""
        self.state, self.num_tokens, self.to_read = None, 0, None
        self._past = None if self._past is None else []

    def activate_past_recording(self) -> None:
        """Let `crop` undo the tokens read from now on."""
        self._past = []

    def begin(self, tokens_BT: Tensor, kept_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the tokens of a call after those that are to be read again, and which of them are kept."""
        self.num_tokens += tokens_BT.shape[1]
        if self.to_read is None and self._past is None:
            return tokens_BT, kept_BT
        kept_BT = torch.ones_like(tokens_BT, dtype=torch.bool) if kept_BT is None else kept_BT
        if self.to_read is not None:
            tokens_BT = torch.cat((self.to_read[0], tokens_BT), 1)
            kept_BT = torch.cat((self.to_read[1], kept_BT), 1)
            self.to_read = None
        if self._past is not None:
            self._past.append((self.state, tokens_BT, kept_BT))
        return tokens_BT, kept_BT

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last -`tokens_to_remove` tokens, which were read since recording began or the last crop."""
        if tokens_to_remove > 0 or (tokens_to_remove and self._past is None):
            raise ValueError(f"crop({tokens_to_remove}): only tokens read while past is recorded can be removed")
        left = -tokens_to_remove
        self.num_tokens -= left
        while left:
            if not self._past:
                raise ValueError(f"crop({tokens_to_remove}): so many tokens were not recorded")
            self.state, tokens_BT, kept_BT = self._past.pop()
            stay = max(0, tokens_BT.shape[1] - left)
            left -= tokens_BT.shape[1] - stay
            self.to_read = (tokens_BT[:, :stay], kept_BT[:, :stay]) if stay else None
        self._past = None if self._past is None else []


@dataclass(frozen=True)
class OutputWeight:
    """The matrix [V, D] that gives the logits of features, for a loss that makes them in parts."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """The model without its head. trl calls it, and multiplies its outputs by `get_output_embeddings`."""

    whole: ArchlabForCausalLM
    _tp_plan = None  # which the library asks a base model for

    def __call__(self, input_ids, attention_mask=None, use_cache=None, **options) -> BaseModelOutputWithPast:
        """Return the features [B, T, D] that the head reads; raise ValueError if the head is not a single matrix."""
        if self.whole.get_output_embeddings() is None:
            raise ValueError(
                "this model's head is not a single matrix: a loss that makes logits in parts cannot have it"
            )
        x_BTD, _ = self.whole.run(self.whole.model.features, input_ids, attention_mask, None, False, options)
        return BaseModelOutputWithPast(last_hidden_state=x_BTD)


class ArchlabForCausalLM(PreTrainedModel, GenerationMixin):
    """The model under the library's interface."""

    config_class = ArchlabConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    gradient_checkpointing = False

    def __init__(self, config: ArchlabConfig) -> None:
        super().__init__(config)
        self.model = build()
        # from_pretrained builds on the meta device, where tensors that no file holds have no values.
        self._is_loading = any(parameter.is_meta for parameter in self.model.parameters())
        if self._is_loading:
            with torch.device("cpu"):
                self._initial_buffers = dict(build().named_buffers())
        self._tied_weights_keys = _tied_names(self)
        config.final_logit_softcapping = getattr(getattr(self.model, "head", None), "soft_cap", None)
        config.tie_word_embeddings = bool(self._tied_weights_keys)
        self.post_init()

    @classmethod
    def from_pretrained(cls, folder, *args, **options):
        """Load the model; raise ValueError naming a file that has changed since it was exported."""
        if Path(folder).is_dir():
            weight_files(Path(folder))
        return super().from_pretrained(folder, *args, **options)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *arguments, **options) -> None:
        if generation_config.use_cache is False or model_kwargs.get("past_key_values") is not None:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *arguments, **options)
            return
        model_kwargs["past_key_values"] = StateCache()
        if generation_config.is_assistant:
            model_kwargs["past_key_values"].activate_past_recording()

    def _init_weights(self, module: nn.Module) -> None:
        """Fill in tensors that no file holds; `build` has initialized a model that is not loaded."""
        if not self._is_loading:
            return
        prefix = next((name for name, each in self.model.named_modules() if each is module), None)
        if prefix is None:
            return
        for name, parameter in module.named_parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                raise ValueError(f"the weights hold no {f'{prefix}.{name}'.lstrip('.')}")
        for name, buffer in module.named_buffers(recurse=False):
            if not getattr(buffer, "_is_hf_initialized", False):
                buffer.copy_(self._initial_buffers[f"{prefix}.{name}".lstrip(".")])

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.model.embedding

    def get_output_embeddings(self) -> OutputWeight | None:
        """Return the matrix by which features become logits, under the bound `config.final_logit_softcapping`."""
        matrix = getattr(getattr(self.model, "head", None), "matrix", None)
        return None if matrix is None or not hasattr(self.model, "features") else OutputWeight(matrix)

    @property
    def base_model(self) -> Features:
        """Everything below the head."""
        return Features(self)  # of any head: the library asks for it while it loads a model

    @property
    def init_continuous_batching(self):
        """Not there: it pages keys and values, which a recurrent state is not; servers ask for it, and do without."""
        raise AttributeError("this model has no keys and values that continuous batching could page")

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *arguments, **options) -> nn.Module:
        """Return the embedding; raise ValueError for another number of tokens, which is part of the architecture."""
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"this model has {self.config.vocab_size} tokens, and its code holds that number: it cannot have "
                f"{new_num_tokens}; use a token that it has, or train it with a larger model.vocab_size"
            )
        return self.get_input_embeddings()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func=checkpoint, every_n_layers: int = 1
    ) -> None:
        """Save the input of each block alone for the backward pass, or of every n-th, or undo that."""
        self.gradient_checkpointing = enable
        for index, block in enumerate(getattr(self.model, "blocks", ())):
            block.__dict__.pop("forward", None)
            if enable and index % every_n_layers == 0:
                block.forward = partial(gradient_checkpointing_func, block.forward)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **options,
    ) -> CausalLMOutputWithPast | tuple:
        """Return logits of the last `logits_to_keep` positions, or of all, and the cache after them.

        Padding, where `attention_mask` is 0, is not read: each row has the same result as alone. `options` are the
        library's `num_items_in_batch` and `shift_labels` of the loss, and for rows of several documents
        `position_ids`, which restart at 0 with each: every document has the same result as alone, too.
        """
        if past_key_values is not None and not isinstance(past_key_values, StateCache):
            raise TypeError(f"past_key_values is a {type(past_key_values).__name__}; this model has a StateCache")
        if use_cache is None:
            use_cache = labels is None and getattr(self.config, "use_cache", True)
        needs_state = (use_cache or past_key_values is not None) and options.get("position_ids") is None
        cache = StateCache() if needs_state and past_key_values is None else past_key_values
        loss_options = {name: options.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in options}
        has_features = hasattr(self.model, "features") and hasattr(self.model, "head")
        call = self.model.features if has_features else self.model
        x_BTD, state = self.run(call, input_ids, attention_mask, cache, needs_state, options)
        is_number = not isinstance(logits_to_keep, Tensor)
        num_logits = (logits_to_keep or input_ids.shape[1]) if is_number else 0
        x_BTD = x_BTD[:, -num_logits:] if is_number else x_BTD[:, logits_to_keep]
        logits, loss = self.model.head(x_BTD) if has_features else x_BTD, None
        if labels is not None:
            labels = _without_first(labels, attention_mask, options.get("position_ids"))
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **loss_options)
            num_tokens = labels.numel() if attention_mask is None else attention_mask.sum()
            loss = loss + _auxiliary_loss(state) / (loss_options.get("num_items_in_batch") or num_tokens)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        return output if return_dict or return_dict is None else output.to_tuple()

    def run(self, call, input_ids, attention_mask, cache, needs_state: bool, options) -> tuple[Tensor, dict]:
        """Return the output of `call` for the tokens after those of the cache, and the state after them."""
        unknown = sorted(name for name in options if name not in PACKING)
        if unknown:
            raise TypeError(f"this model has no {', '.join(unknown)}; positions follow from attention_mask")
        tokens_BT = self._readable(input_ids)
        if options.get("position_ids") is not None:
            if cache is not None or attention_mask is not None:
                raise TypeError("position_ids divide rows into documents, without attention_mask and past_key_values")
            return _run_documents(self.model, call, tokens_BT, options["position_ids"])
        kept_BT = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        if cache is None:
            return _run_kept(self.model, call, tokens_BT, kept_BT, None, needs_state)
        tokens_BT, kept_BT = cache.begin(tokens_BT, kept_BT)
        x_BTD, cache.state = _run_kept(self.model, call, tokens_BT, kept_BT, cache.state, needs_state)
        return x_BTD, cache.state

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        attention_mask=None,
        use_cache=True,
        logits_to_keep=None,
        **options,
    ) -> dict:
        """Return the inputs of one step: the tokens that the cache has not seen."""
        if options.get("inputs_embeds") is not None:
            raise ValueError("this model reads input_ids, and no inputs_embeds")
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        kept = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
        } | kept

    def _readable(self, tokens_BT: Tensor) -> Tensor:
        # A row that has ended is fed the padding's number, which may be past the vocabulary; nobody reads its logits.
        pad = self.config.padding_id
        return tokens_BT if pad is None else tokens_BT.masked_fill(tokens_BT == pad, 0)


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of each parameter that has another one, by the other one."""
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def _is_at_end(padding_BT: Tensor) -> bool:
    return bool((padding_BT[:, 1:] >= padding_BT[:, :-1]).all())


def _without_first(labels_BT: Tensor, mask_BT: Tensor | None, position_ids_BT: Tensor | None) -> Tensor:
    """Ignore labels that padding, or the end of another document, would have to predict."""
    if position_ids_BT is not None:
        return labels_BT.masked_fill(position_ids_BT == 0, -100)
    return labels_BT if mask_BT is None else labels_BT.masked_fill(F.pad(mask_BT[:, :-1] == 0, (1, 0)), -100)


def _auxiliary_loss(state: dict[str, Tensor]) -> Tensor | float:
    return sum(loss_B.sum() for name, loss_B in state.items() if _is_auxiliary(name))


def _is_auxiliary(name: str) -> bool:
    return name.rpartition(".")[2] == "auxiliary_loss"


def _run_documents(model: nn.Module, call, tokens_BT: Tensor, position_ids_BT: Tensor) -> tuple[Tensor, dict]:
    """Call the model on rows of concatenated documents, each as if it were alone."""
    starts_BT = position_ids_BT == 0
    is_next_BT = F.pad(position_ids_BT[:, 1:] == position_ids_BT[:, :-1] + 1, (1, 0), value=False)
    if position_ids_BT.shape != tokens_BT.shape or not (starts_BT | is_next_BT).all():
        raise ValueError("position_ids do not count 0, 1, 2, ... in every document of a row")
    starts = starts_BT.flatten().nonzero()[:, 0]
    lengths = torch.diff(starts, append=starts.new_tensor([starts_BT.numel()]))
    documents = tokens_BT.flatten().split(lengths.tolist())
    kept = pad_sequence([torch.ones_like(document, dtype=torch.bool) for document in documents], batch_first=True)
    y, state = _run_kept(model, call, pad_sequence(documents, batch_first=True), kept, None, False)
    return y[kept].view(*tokens_BT.shape, -1), state


def _run_kept(
    model: nn.Module, call, tokens_BT: Tensor, kept_BT: Tensor | None, state, needs_state: bool
) -> tuple[Tensor, dict]:
    """Call the model on the tokens that are kept."""
    if kept_BT is None or kept_BT.all():
        return call(tokens_BT, state)
    # Later tokens do not change an output: padding at the end affects the state alone, and
    # losses that layers add for every token.
    if state is None and not needs_state and _is_at_end(~kept_BT) and not any(map(_is_auxiliary, model.init_state(1))):
        return call(tokens_BT, state)
    return _run_rows(model, call, tokens_BT, kept_BT, state)


def _run_rows(model: nn.Module, call, tokens_BT: Tensor, kept_BT: Tensor, state) -> tuple[Tensor, dict]:
    """Call the model on the tokens that are kept, rows of one number of them at a time; outputs elsewhere are 0.

    So each row is computed as if it were alone, whatever the architecture: none of its layers ever sees padding.
    """
    num_kept_B, rows, outputs, states = kept_BT.sum(1), [], [], []
    for num_kept in num_kept_B.unique().flip(0).tolist():
        rows.append((num_kept_B == num_kept).nonzero()[:, 0])
        kept, own = kept_BT[rows[-1]], None
        if state is not None:
            own = {name: x[rows[-1]] for name, x in state.items()}
        if num_kept:
            y, own = call(tokens_BT[rows[-1]][kept].view(len(kept), num_kept), own)
            outputs.append(y.new_zeros(*kept.shape, y.shape[-1]).masked_scatter(kept[..., None], y))
        elif outputs:
            outputs.append(torch.zeros_like(outputs[0][:1]).expand(len(kept), -1, -1))
        else:
            raise ValueError("attention_mask leaves no token to read")
        states.append(model.init_state(len(kept)) if own is None else own)
    order = torch.cat(rows).argsort()
    return torch.cat(outputs)[order], {name: _join([each[name] for each in states])[order] for name in states[0]}


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenate states of rows; one that has read less has fewer steps in its second dimension, and gets zeros."""
    if parts[0].dim() > 1:
        steps = max(x.shape[1] for x in parts)
        parts = [F.pad(x, (0, 0) * (x.dim() - 2) + (0, steps - x.shape[1])) for x in parts]
    return torch.cat(parts)
