"""Which volumes a model was trained to make: sizes, spacings, fields of view; and the allowed grid nearest to another.

MAISI takes a few sizes only, and makes anatomy of the wrong size outside the spacings and fields of view that it has
seen. Its CT models: x = y of 256, 384 or 512, z a multiple of 128 up to 768, 0.5 to 3 mm in plane, 0.5 to 5 mm through
it. Its MR models: a list of sizes, 0.4 to 5 mm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import GridSpec

Size = tuple[int, int, int]
Spacing = tuple[float, float, float]

# Differences that no table of a scanner makes on purpose.
_SAME = 1e-4
# A spacing this near (10 %) is as good as the segmentation's own: then the smaller volume is better, for its memory.
_NEAR_ENOUGH = math.log(1.1)
_KEYS = {"in_plane", "through_plane", "sizes", "least_field_of_view_mm", "least_field_of_view_body_mm"}


@dataclass(frozen=True)
class NearestGrid:
    """A grid that the rules allow.

    Args:
        size: voxels along each axis.
        spacing_mm: along each axis.
        covers: the box that was asked for lies in it as a whole.
        note: in words what was changed, "" if nothing was.
    """

    size: Size
    spacing_mm: Spacing
    covers: bool
    note: str


@dataclass(frozen=True)
class GridRules:
    """The rules; an empty one allows everything.

    Args:
        in_plane: allowed numbers of voxels along the first two axes, which must have the same number and spacing.
        through_plane: allowed numbers of voxels along the third axis.
        sizes: allowed sizes, instead of `in_plane` and `through_plane`.
        spacing_range_mm: least and largest spacing along each axis.
        least_field_of_view_mm: along each of the first two axes.
        least_field_of_view_body_mm: what is recommended, not demanded, if more than the head is shown.
    """

    in_plane: tuple[int, ...] = ()
    through_plane: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    spacing_range_mm: tuple[tuple[float, float], ...] | None = None
    least_field_of_view_mm: float = 0.0
    least_field_of_view_body_mm: float = 0.0

    @staticmethod
    def from_json(
        rules: Mapping[str, Any] | None, spacing_range_mm: Sequence[Sequence[float]] | None = None
    ) -> GridRules:
        """From `grid.rules` and `grid.spacing_range_mm` of a `model.json`.

        Raises:
            ModelError: a rule that is unknown or makes no sense.
        """
        rules = dict(rules or {})
        unknown = sorted(set(rules) - _KEYS)
        if unknown:
            raise ModelError(f"The rule '{unknown[0]}' of the model's grid is unknown", "Install a newer version.")
        try:
            made = GridRules(
                in_plane=tuple(sorted(int(n) for n in rules.get("in_plane", ()))),
                through_plane=tuple(sorted(int(n) for n in rules.get("through_plane", ()))),
                sizes=tuple(_three(size) for size in rules.get("sizes", ())),
                spacing_range_mm=tuple((float(low), float(high)) for low, high in spacing_range_mm)
                if spacing_range_mm
                else None,
                least_field_of_view_mm=float(rules.get("least_field_of_view_mm") or 0),
                least_field_of_view_body_mm=float(rules.get("least_field_of_view_body_mm") or 0),
            )
        except (TypeError, ValueError) as error:
            raise ModelError("The rules of the model's grid are malformed", "Install the model again.") from error
        if bool(made.in_plane) != bool(made.through_plane):
            raise ModelError("The rules of the model's grid name sizes for some axes only", "Install the model again.")
        return made

    @staticmethod
    def from_grid(grid: GridSpec) -> GridRules:
        """From the grid of a model."""
        return GridRules.from_json(grid.rules, grid.spacing_range_mm)

    def problems(self, shape: Sequence[int], spacing: Sequence[float], head_only: bool = False) -> list[str]:
        """What the rules say against a grid, in words; empty if nothing.

        Args:
            shape: voxels along the model's axes.
            spacing: mm along them.
            head_only: it shows the head and nothing else.
        """
        found = []
        if self.sizes and tuple(shape) not in self.sizes:
            found.append(f"the size is {_by(shape)} voxels; it must be {' or '.join(_by(s) for s in self.sizes)}")
        if self.in_plane:
            if shape[0] != shape[1]:
                found.append(
                    f"the first two sides have {shape[0]} and {shape[1]} voxels; they must have the same number"
                )
            wrong = [n for n in dict.fromkeys(shape[:2]) if n not in self.in_plane]
            if wrong:
                found.append(f"a side in plane has {_or(wrong)} voxels; it must have {_or(self.in_plane)}")
            if shape[2] not in self.through_plane:
                found.append(f"there are {shape[2]} slices; there must be {_or(self.through_plane)}")
            if not math.isclose(spacing[0], spacing[1], rel_tol=_SAME):
                found.append(f"the spacing in plane is {spacing[0]:.4g} by {spacing[1]:.4g} mm; it must be the same")
        for axis, (low, high) in zip("xyz", self.spacing_range_mm or ()):
            own = float(spacing["xyz".index(axis)])
            if not low * (1 - _SAME) <= own <= high * (1 + _SAME):
                found.append(f"the spacing along {axis} is {own:.4g} mm; it must be {low:g} to {high:g} mm")
        views = [float(n * s) for n, s in zip(shape[:2], spacing[:2])]
        if min(views) < self.least_field_of_view_mm * (1 - _SAME):
            found.append(
                f"the field of view is {views[0]:.0f} x {views[1]:.0f} mm; "
                f"it must be at least {self.least_field_of_view_mm:g} mm"
            )
        return found

    def advice(self, shape: Sequence[int], spacing: Sequence[float], head_only: bool = False) -> list[str]:
        """What speaks against an allowed grid, in sentences; arguments as for `problems`."""
        least = self._least_view(head_only)
        view = min(float(n * s) for n, s in zip(shape[:2], spacing[:2]))
        if view >= least * (1 - _SAME):
            return []
        return [
            f"The field of view is {view:.0f} mm; the model's authors recommend at least {least:g} mm for more than a "
            "head"
        ]

    def nearest(self, shape: Sequence[int], spacing: Sequence[float], head_only: bool = False) -> NearestGrid:
        """The allowed grid nearest to a given one.

        It covers the given box where the rules allow that; of those grids that do, it has the spacing nearest to the
        given one (within 10 % all count as equal), and of those the fewest voxels. If none covers the box, it is the
        one that cuts off least.

        Args:
            shape: voxels along the model's axes.
            spacing: mm along them.
            head_only: it shows the head and nothing else.

        Raises:
            ModelError: the rules contradict each other.
        """
        own = tuple(float(s) for s in spacing)
        if not self.problems(shape, own, head_only):
            return NearestGrid(_three(shape), own, True, "")
        box = [n * s for n, s in zip(shape, own)]
        candidates = [self._fitted(size, own, box, head_only) for size in self._sizes(_three(shape))]
        candidates = [c for c in candidates if c is not None]
        if not candidates:
            raise ModelError("The rules of the model's grid allow no grid at all", "Install the model again.")

        def rank(candidate: tuple[Size, Spacing]) -> tuple[float, ...]:
            size, chosen = candidate
            kept = math.prod(min(1.0, n * s / length) for n, s, length in zip(size, chosen, box))
            apart = [abs(math.log(s / o)) for s, o in zip(chosen, own)]
            far = sum(a for a in apart if a > _NEAR_ENOUGH)
            return (-round(kept, 6), round(far, 6), math.prod(size), round(sum(apart), 6))

        size, chosen = min(candidates, key=rank)
        lengths = [n * s for n, s in zip(size, chosen)]
        covers = all(length >= want * (1 - _SAME) for length, want in zip(lengths, box))
        note = (
            f"{_by(size)} voxels of {_mm(chosen)} mm, the nearest that the model makes to {_by(shape)} of {_mm(own)} mm"
        )
        if not covers:
            note += f"; it holds {_whole(lengths)} of the {_whole(box)} mm, the rest is cut off"
        return NearestGrid(size, chosen, covers, note)

    def _least_view(self, head_only: bool) -> float:
        body = 0.0 if head_only else self.least_field_of_view_body_mm
        return max(self.least_field_of_view_mm, body)

    def _sizes(self, shape: Size) -> Iterator[Size]:
        if self.sizes:
            yield from self.sizes
        elif self.in_plane:
            yield from ((n, n, k) for n, k in itertools.product(self.in_plane, self.through_plane))
        else:
            yield shape

    def _fitted(self, size: Size, own: Spacing, box: Sequence[float], head_only: bool) -> tuple[Size, Spacing] | None:
        """The size with the allowed spacing that is nearest to `own` among those that cover the box, or most of it."""
        ranges = self.spacing_range_mm or ((0.0, math.inf),) * 3
        view = self._least_view(head_only)
        groups = ((0, 1), (2,)) if self.in_plane else ((0,), (1,), (2,))
        chosen = [0.0, 0.0, 0.0]
        for group in groups:
            low = max(ranges[a][0] for a in group)
            high = min(ranges[a][1] for a in group)
            low = max([low, *(view / size[a] for a in group if a < 2)])
            if low > high * (1 + _SAME):
                return None
            wanted = math.prod(own[a] for a in group) ** (1 / len(group))
            covering = max(box[a] / size[a] for a in group)
            spacing = max(wanted, covering)
            if spacing != wanted:
                spacing = math.ceil(spacing * 1e4 - 1e-6) / 1e4  # up, in figures that a person can type
            spacing = min(max(spacing, low), high)
            for a in group:
                chosen[a] = spacing
        return size, (chosen[0], chosen[1], chosen[2])


def _three(values: Sequence[int]) -> Size:
    first, second, third = (int(v) for v in values)
    return first, second, third


def _by(values: Sequence[int]) -> str:
    return " x ".join(str(int(v)) for v in values)


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def _whole(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.0f}" for v in values)


def _or(values: Sequence[int]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
