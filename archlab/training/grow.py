"""A larger model that begins as a smaller one: its layers repeated, its tensors in a corner, the function unchanged.

Layers that the smaller model does not have are copies of the one before, whose branches add nothing at first: the
parameters that their outputs are proportional to are zero (Net2Net, arXiv:1511.05641, and gradual stacking). A wider
tensor holds the smaller one from its first entries on; the rest of it is zero where it would reach a branch's output,
and otherwise as it was initialized. Whether that is exact depends on the architecture, so both models are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archlab.config.spec import Spec
from archlab.errors import ConfigError
from archlab.modeling.backbone import iter_blocks
from archlab.modeling.build import build, build_on_meta, device_of, eval_mode
from archlab.modeling.param_roles import branch_params
from archlab.modeling.param_scales import branches_of
from archlab.modeling.state import max_context
from archlab.ops.dispatch import reference_only
from archlab.storage.tensors import named_tensors

_PATH = "train.start_from.match"
_TOLERANCE, _TOKENS = 1e-5, 48


@dataclass(frozen=True)
class Growth:
    """How a model grew: the source of each of its tensors, its new layers, and its wider tensors.

    `sources` maps each tensor's name to that of the smaller model's which it begins as.
    """

    sources: Mapping[str, str]
    new_blocks: Sequence[str]
    wider: Sequence[str]

    def __str__(self) -> str:
        named = f" ({', '.join(self.new_blocks)})" if self.new_blocks else ""
        layers, tensors = _count(len(self.new_blocks), "new layer"), _count(len(self.wider), "wider tensor")
        return f"grown with {layers}{named} and {tensors}; the function is that of the smaller model"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number > 1)}"


def plan_growth(spec: Spec, large: nn.Module) -> Growth:
    """Return how a smaller model grows into another, which may be on the meta device, by names and shapes alone.

    Raises ConfigError naming the first layer or tensor of the smaller model that has no place in the larger one, and
    for a model whose inputs are no tokens, of which none can be drawn to compare the two.
    """
    if spec.knobs.get("vocab_size") is None:
        raise ConfigError(_PATH, "only models of tokens can grow")
    small = build_on_meta(spec)
    origin, new_blocks = _origins(_block_names(small), _block_names(large))
    own, stored = named_tensors(large), named_tensors(small)
    sources = {name: _source(name, origin) for name in own}
    wider = []
    for name, source in sources.items():
        if source not in stored:
            purpose = f", which {name!r} would begin as" if source != name else ""
            raise ConfigError(_PATH, f"the smaller model has no {source!r}{purpose}")
        if own[name].dim() != stored[source].dim() or any(
            new < old for new, old in zip(own[name].shape, stored[source].shape, strict=True)
        ):
            problem = f"{name!r} is {list(own[name].shape)}, which does not hold {list(stored[source].shape)}"
            raise ConfigError(_PATH, f"{problem} of the smaller model")
        if own[name].shape != stored[source].shape:
            wider.append(name)
    if unused := sorted(set(stored) - set(sources.values())):
        raise ConfigError(_PATH, f"{unused[0]!r} of the smaller model has no place in the larger one")
    blocks = dict(large.named_modules())
    for name in new_blocks:
        _output_params(blocks[name], name)
    return Growth(sources, new_blocks, wider)


def _block_names(model: nn.Module) -> dict[str, nn.Module]:
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(block)]: block for block in iter_blocks(model)}


def _origins(small: Mapping[str, nn.Module], large: Mapping[str, nn.Module]) -> tuple[dict[str, str], list[str]]:
    """Return the block that each block begins as, and the names of those that are new."""
    origin: dict[str, str] = {}
    new: list[str] = []
    for stack in dict.fromkeys(name.rpartition(".")[0] for name in large):
        old, own = ([name for name in every if name.rpartition(".")[0] == stack] for every in (small, large))
        if len(own) < len(old) or not old:
            raise ConfigError(_PATH, f"{stack} has {_count(len(own), 'layer')}, and the smaller model {len(old)}")
        places = _places([_kind(small[name]) for name in old], [_kind(large[name]) for name in own], stack)
        for number, name in enumerate(own):
            earlier = [
                index for index, place in enumerate(places) if place <= number and _fits(small, large, old[index], name)
            ]
            if not earlier:
                raise ConfigError(_PATH, f"{name} is a new layer of another kind than every one before it")
            origin[name] = old[earlier[-1]]
            if number not in places:
                new.append(name)
    return origin, new


def _fits(small: Mapping[str, nn.Module], large: Mapping[str, nn.Module], old: str, new: str) -> bool:
    return _kind(small[old]) == _kind(large[new])


def _kind(block: nn.Module) -> tuple[str, ...]:
    """Return the properties that blocks of one kind share, whatever their width."""
    return tuple(f"{name} {type(module).__name__}" for name, module in block.named_modules())


def _places(old: Sequence[object], new: Sequence[object], stack: str) -> list[int]:
    """Return the place of each old block among the new ones: spread evenly, or else the first that are of its kind."""
    spread = [-(-index * len(new) // len(old)) for index in range(len(old))]
    segments = [max(index for index, place in enumerate(spread) if place <= number) for number in range(len(new))]
    if all(kind == old[segment] for kind, segment in zip(new, segments, strict=True)):
        return spread
    places: list[int] = []
    for index, kind in enumerate(old):
        start = places[-1] + 1 if places else 0
        found = next((place for place in range(start, len(new)) if new[place] == kind), None)
        if found is None:
            raise ConfigError(
                _PATH, f"{stack} has no layer of the kind of the smaller model's {stack}.{index} in its place"
            )
        places.append(found)
    return places


def _source(name: str, origin: Mapping[str, str]) -> str:
    block = next((each for each in origin if name.startswith(f"{each}.")), None)
    return name if block is None else origin[block] + name[len(block) :]


def _output_params(block: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters that are zero in a layer which adds nothing."""
    found: list[nn.Parameter] = []
    if not hasattr(block, "branches"):
        raise ConfigError(_PATH, f"{name}: {type(block).__name__} has no `branches`, whose outputs would be zero")
    try:
        for branch in branches_of(block):
            if hasattr(branch, "shrink_branch"):
                what = f"the output of {type(branch).__name__}"
                raise ConfigError(_PATH, f"{what} cannot be made zero, so no layer can be added")
            found += branch_params(branch)
    except ConfigError as error:  # of roles, which the path of another setting would not explain
        raise ConfigError(_PATH, f"{name}: {error.problem}") from error
    return found


@torch.no_grad()
def grow_weights(stored: Mapping[str, Tensor], spec: Spec, model: nn.Module) -> Growth:
    """Load a smaller model's tensors into a larger model, whose function is then the smaller one's.

    Raises ConfigError if it is not, by how much the logits of random tokens differ.
    """
    growth = plan_growth(spec, model)
    own, blocks = named_tensors(model), dict(model.named_modules())
    outputs = {id(parameter) for module in model.modules() for parameter in _own_branch_params(module)}
    for name, source in growth.sources.items():
        corner = tuple(slice(0, size) for size in stored[source].shape)
        if name in growth.wider and id(own[name]) in outputs:
            own[name].zero_()
        own[name][corner] = stored[source].to(own[name])
    for name in growth.new_blocks:
        for parameter in _output_params(blocks[name], name):
            parameter.zero_()
    _require_same_function(stored, spec, model)
    return growth


def _own_branch_params(module: nn.Module) -> list[nn.Parameter]:
    try:
        return list(branch_params(module))
    except ConfigError:  # a component that declares no roles: its outputs are compared below
        return []


def _require_same_function(stored: Mapping[str, Tensor], spec: Spec, model: nn.Module) -> None:
    small, vocab_size = build(spec, device_of(model)), spec.knobs["vocab_size"]
    small.load_state_dict(dict(stored), strict=False)
    limits = [limit for limit in (max_context(small), max_context(model)) if limit is not None]
    tokens = torch.randint(vocab_size, (2, min([_TOKENS, *limits])), generator=torch.Generator().manual_seed(0))
    with eval_mode(small), eval_mode(model), reference_only():
        expected = small(tokens.to(device_of(model)))[0]
        actual = model(tokens.to(device_of(model)))[0][..., : expected.shape[-1]]
    difference = float((actual - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        problem = f"the function would not be the smaller model's: logits differ by {difference:.2g}"
        raise ConfigError(
            _PATH, f"{problem}; a norm over more features, or a sum of more terms, is not an exact growth"
        )
