"""An experiment with some of a trial's values applied, in which the paths of a space are resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from archlab.config import paths
from archlab.config.domains import Domain, Tie
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.interpolation import interpolate
from archlab.config.registry import Slot
from archlab.config.schema import REQUIRED, Knob
from archlab.errors import ConfigError
from archlab.searching.variants import selectors
from archlab.searching.variants.layer_lists import is_layer_list, layer_entries, resize, roll, unroll
from archlab.searching.variants.pattern import Pattern, PatternValue, parse_value, positions


@dataclass(frozen=True)
class Held:
    """Marks the path that `hold` solves for among those of a space."""


HELD = Held()
Varied = Domain | Tie | Pattern | Held | None
MISSING: Any = object()


@dataclass(frozen=True)
class Variant:
    """An experiment in which the lists in `lists` have an entry for every layer; `patterns` are those put so far."""

    raw: UnresolvedExperiment
    lists: tuple[str, ...] = ()
    patterns: Mapping[str, PatternValue] = field(default_factory=dict)
    source: str = "trial"

    def letters(self, path: str) -> str:
        """Return the letter of every layer of a list that a pattern made, or an empty string."""
        value = self.patterns.get(path)
        return "".join(value.letters[at] for at in value.sources(value.depth or 0)) if value else ""

    def places(self, path: str) -> list[str]:
        """Return the paths of single values that a path with wildcards stands for here."""
        found = selectors.first_selector(path)
        if found is None:
            return paths.expand(self.raw.tree, path)
        layers, name, rest = found
        count = len(self.raw.get(layers) or ())
        letters = self.letters(layers)
        indices = [i for i in range(count) if name == selectors.EACH or letters[i : i + 1] == name]
        entries = [f"{layers}[{index}]" + (f".{rest}" if rest else "") for index in indices]
        return [place for entry in entries for place in paths.expand(self.raw.tree, entry)]

    def knobs(self, path: str) -> dict[str, Knob]:
        """Return the knobs that a path stands for, by their own paths; without those layers that have none."""
        return {place: knob for place in self.places(path) if (knob := self.raw.knob(place))}

    def parameter_paths(self, path: str) -> list[str]:
        """Return the paths of which each is a parameter of its own: every layer's for `[each]`, else the path."""
        found = selectors.first_selector(path)
        if found is None or found[1] != selectors.EACH:
            return [path]
        return [selectors.at_index(path, index) for index in range(len(self.raw.get(found[0]) or ()))]

    def put_everywhere(self, path: str, value: Any) -> Variant:
        """Return the variant with one value in every place that a path stands for."""
        return self._override(dict.fromkeys(self.knobs(path), value))

    def put_letters(self, path: str, pattern: Pattern) -> Variant:
        """Return the variant with one layer of every letter of a pattern."""
        return self._put_pattern(path, pattern, PatternValue("".join(pattern.layers), "stack", len(pattern.layers)))

    def value(self, place: str) -> Any:
        """Return the value of a knob, its default if the YAML has none, or MISSING if there is no such knob."""
        knob = self.raw.knob(place)
        if knob is None:
            return MISSING
        value = paths.get(self.raw.tree, place, MISSING)
        if isinstance(value, str) and "${" in value:
            value = paths.get(interpolate(self.raw.tree), place)
        if value is not MISSING:
            return value
        default = knob.default.default if isinstance(knob.default, Slot) else knob.default
        return MISSING if default is REQUIRED else default

    def referenced_places(self, path: str, place: str, reference: str) -> list[str]:
        """Return the places that a reference of a varied path means for one of its places.

        A wildcard of the reference is the layer of the place where both paths have that list.
        """
        ours, here, theirs = selectors.split(path), paths.split(place), selectors.split(reference)
        for index, part in enumerate(theirs):
            is_wild = part == "*" or selectors.is_selector(part)
            if is_wild and index < len(ours) and theirs[:index] == here[:index] and isinstance(here[index], int):
                theirs[index] = here[index]
        return self.places(selectors.join(theirs))

    def tied_values(self, path: str, tie: Tie) -> dict[str, Any]:
        """Return the values of a path's knobs that another knob decides; none where that other knob is missing."""
        values = {}
        for place in self.knobs(path):
            found = [self.value(other) for other in self.referenced_places(path, place, tie.same_as)]
            present = [value for value in found if value is not MISSING]
            if any(value != present[0] for value in present):
                raise ConfigError(path, f"same_as: the layers differ in {tie.same_as}")
            if present:
                values[place] = present[0]
        return values

    def put(self, path: str, domain: Varied, value: Any, *, keep_depth: bool = False) -> Variant:
        """Return the variant with a trial's value of a path; see `apply_values`."""
        if isinstance(domain, Pattern):
            return self._put_pattern(path, domain, parse_value(value, domain, path), keep_depth)
        if isinstance(domain, Tie):
            return self._override(self.tied_values(path, domain))
        if isinstance(domain, Held) and is_layer_list(path, self.raw):
            return self._override({path: resize(layer_entries(self.raw, path), value)})
        found = selectors.first_selector(path)
        if found is None:
            return self._override({path: value})
        if found[1] == selectors.EACH:
            return self._put_each(path, found[0], value)
        return self.put_everywhere(path, value)

    def _override(self, values: Mapping[str, Any]) -> Variant:
        return replace(self, raw=self.raw.override(values, self.source))

    def _put_pattern(self, path: str, pattern: Pattern, value: PatternValue, keep_depth: bool = False) -> Variant:
        layers = layer_entries(self.raw, path)
        depth = len(layers) if keep_depth else value.depth or pattern.depth
        letters = dict.fromkeys(value.letters)
        named = {letter: self._layer(path, layers[0], pattern.knobs_of(letter)) for letter in letters}
        entries = [named[value.letters[at]] for at in value.sources(depth)]
        patterns = {**self.patterns, path: replace(value, depth=depth)}
        return replace(self._override({path: entries}), patterns=patterns, lists=(*self.lists, path))

    def _layer(self, path: str, layer: Any, parts: Sequence[Mapping[str, Any]]) -> Any:
        """Return a layer with the knobs of mappings put over it, the last one on top."""
        raw, place = self.raw.override({path: [layer]}, self.source), f"{path}[0]"
        for knobs in parts:
            if "type" in knobs and knobs["type"] != self._type(raw, place):
                raw = raw.override({place: {"type": knobs["type"]}}, self.source)
            for key, value in knobs.items():
                below = f"{place}.{key}"
                merged = paths.merge(raw.get(below), value) if isinstance(value, Mapping) else value
                raw = raw.override({below: merged}, self.source)
        return raw.get(place)

    def _type(self, raw: UnresolvedExperiment, place: str) -> Any:
        knob = raw.knob(place.removesuffix("[0]"))
        return raw.get(f"{place}.type") or (knob.default.default if knob else None)

    def _put_each(self, path: str, layers: str, values: Sequence[Any]) -> Variant:
        """Give every layer its own value; with another number of layers, as the layers themselves are spread."""
        depth, pattern = len(self.raw.get(layers)), self.patterns.get(layers)
        sources = positions(len(values), depth, pattern.operator if pattern else "stretch")
        own = dict[str, Any]()
        for index, source in enumerate(sources):
            place = selectors.at_index(path, index)
            own |= dict.fromkeys(self.knobs(place), values[source])
        return self._override(own)

    def finish(self) -> UnresolvedExperiment:
        """Return the experiment, runs of equal layers written as one with `repeat`."""
        raw = self.raw
        for path in self.lists:
            raw = roll(raw, path, self.source)
        return raw


def start(raw: UnresolvedExperiment, lists: Sequence[str], source: str) -> Variant:
    """Return an experiment before any value, the given lists with an entry for every layer."""
    for path in lists:
        raw = unroll(raw, path, source)
    return Variant(raw, tuple(lists), source=source)
