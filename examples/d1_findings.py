"""What a curve of the D1 study says: at which layer half of the gap is crossed, or that there is no effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from d1_data import Role

MARKED = 0.01
"""The change of P(<tool_call>) above which the study speaks of an effect; the original marks it with `***`."""

DONOR: dict[str, Role] = {"instruct_to_base": "instruct", "base_to_instruct": "base"}
"""Whose stream is put into the other model, by direction."""

TARGET: dict[str, Role] = {"instruct_to_base": "base", "base_to_instruct": "instruct"}
"""Which model is patched, by direction."""


@dataclass(frozen=True)
class Finding:
    """One direction of a pair, read.

    The stream after the last layer is the donor's output, and the target has nothing left to add to it. So whatever
    that layer gives is so by construction, and is not counted as something that was found.

    Args:
        gap: P(<tool_call>) of the donor by itself, minus that of the target by itself.
        effects: By layer, P(<tool_call>) of the patched target minus that of the target by itself.
        n_layers: How many layers the models have.
    """

    gap: float
    effects: Mapping[int, float]
    n_layers: int

    @property
    def last(self) -> int:
        """The last layer of the models."""
        return self.n_layers - 1

    @property
    def overflown(self) -> list[int]:
        """The layers of which the probability is no number, because the patched model overflowed."""
        return [layer for layer, effect in self.effects.items() if not isfinite(effect)]

    @property
    def has_gap(self) -> bool:
        """Whether the two models differ by themselves."""
        return abs(self.gap) > MARKED

    @property
    def has_effect(self) -> bool:
        """Whether any layer has an effect."""
        return self.largest > MARKED

    @property
    def largest(self) -> float:
        """The largest absolute effect, of all layers."""
        return max(abs(effect) for effect in self.effects.values())

    @cached_property
    def crossed_at(self) -> list[int]:
        """The layers at which the curve comes to lie past half of the gap: the layer before does not, or was not run.

        On a curve that goes one way there is one at most.
        """
        past = [layer for layer in self.effects if self._is_past(layer)]
        return [layer for layer in past if layer - 1 not in past]

    @property
    def layer(self) -> int | None:
        """The layer from which on all that were run lie past half of the gap; None where the last of them does not."""
        final = max(self.effects)
        return self.crossed_at[-1] if self._is_past(final) else None

    @property
    def largest_below_last(self) -> int | None:
        """The layer of the largest absolute effect below the last layer; None where only the last was run."""
        below = [layer for layer in self.effects if layer != self.last]
        return max(below, key=lambda layer: abs(self.effects[layer]), default=None)

    def _is_past(self, layer: int) -> bool:
        return self.has_gap and self.effects[layer] / self.gap >= 0.5

    @property
    def words(self) -> str:
        """The finding, as a clause."""
        if self.overflown:
            return f"P(<tool_call>) is not a number at {_listed(self.overflown)}: the patched model overflows there"
        if self.largest_below_last is None:
            return f"only layer {self.last} was patched, the last, which gives the donor's output by construction"
        if not self.has_effect:
            return f"no effect{self._within} (largest {self.largest:.0e})"
        if not self.has_gap:
            return f"no gap to cross, the two models differ by {abs(self.gap):.0e}; {self._largest_words}"
        if not self.crossed_at:
            return f"half of the gap is not crossed{self._within}; {self._largest_words}"
        return self._crossing_words

    @property
    def label(self) -> str:
        """The finding in a few words, for a figure."""
        if self.overflown:
            return f"not a number at {_listed(self.overflown)}"
        if self.largest_below_last is None:
            return "the last layer only, by construction"
        if not self.has_effect:
            return f"no effect (largest {self.largest:.0e})"
        if not self.has_gap:
            return "no gap to cross"
        if not self.crossed_at:
            return f"half of the gap is not crossed{self._within}"
        if self.layer is None:
            return f"half of the gap: crossed and crossed back{self._within}"
        if self.crossed_at == [self.last]:
            return f"half of the gap at layer {self.last} only, the last"
        earlier = f", for good; first at layer {self.crossed_at[0]}" if len(self.crossed_at) > 1 else ""
        return f"half of the gap at layer {self.layer}{self._or_before}{earlier}"

    @property
    def _crossing_words(self) -> str:
        if self.layer is None:
            return f"half of the gap is crossed at {_listed(self.crossed_at)}, and crossed back{self._within}"
        place = f"layer {self.layer}{self._or_before} ({self._depth}%)"
        if self.layer == self.last:
            place += ", the last, and there by construction"
        *earlier, final = self.crossed_at
        if earlier:
            back = f"earlier at {_listed(earlier)}, and crossed back"
            good = "for good" if max(self.effects) == self.last else f"for good{self._within}"
            return f"half of the gap is crossed {good} at {place}; {back}"
        if final == self.last:
            return f"half of the gap is crossed only at {place}; before it {self._largest_words}"
        return f"half of the gap is crossed at {place}"

    @property
    def _largest_words(self) -> str:
        layer = self.largest_below_last
        if layer is None:
            return ""
        if len(self.effects) == 1:
            return f"the effect is {self.effects[layer]:+.4f}"
        return f"the largest effect is {self.effects[layer]:+.4f}, at layer {layer}"

    @property
    def _within(self) -> str:
        first, final = min(self.effects), max(self.effects)
        if (first, final) == (0, self.last):
            return ""
        return f" at layer {first}" if first == final else f" in layers {first} to {final}"

    @property
    def _depth(self) -> float | None:
        return None if self.layer is None else round(self.layer / self.n_layers * 100, 1)

    @property
    def _or_before(self) -> str:
        """Where the first layer that was run lies past half, the crossing may be further down."""
        return " or before" if self.layer == min(self.effects) > 0 else ""

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        below = self.largest_below_last
        return {
            "gap": round(self.gap, 8),
            "has_effect": self.has_effect,
            "layer": self.layer,
            "depth_pct": self._depth,
            "crossed_at": self.crossed_at,
            "by_construction": self.layer == self.last,
            "largest_effect": self.largest,
            "largest_below_last": None if below is None else {"layer": below, "effect": self.effects[below]},
            "finding": self.words,
        }


def finding_of(result: Mapping[str, Any], way: str) -> Finding:
    """The finding of one direction, from the record of a pair."""
    donor, target = (result["baselines"][of[way]]["tool_call_prob"] for of in (DONOR, TARGET))
    effects = {int(layer): numbers["effect"] for layer, numbers in result[way].items()}
    return Finding(donor - target, effects, result["n_layers"])


def _listed(layers: Sequence[int]) -> str:
    """As words: `layer 4`, `layers 4 and 8`, `layers 4, 8 and 11`."""
    *others, final = map(str, layers)
    return f"layers {', '.join(others)} and {final}" if others else f"layer {final}"
