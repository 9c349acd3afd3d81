"""Label schemes: which classes a model understands, and how they nest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from SynthDiffusionLib.volumes.volume import Code


@dataclass(frozen=True)
class LabelClass:
    """One class of a model's label scheme.

    Args:
        name: plain name, as shown to the user ("nodule").
        value: label value in the class map (> 0).
        codes: SNOMED CT codes that mean this class; the first is written to outputs.
        synonyms: other names under which a user's segment is recognised.
        within: names of the classes that contain this one; where both are given, their masks include it (a nodule is
            part of the filled lung).
        optional: the model can do without it.
        role: "condition", or "remove" for a region that is to be filled with healthy anatomy when inpainting.
        color: RGB in 0..1.
        derive: "outline" for the body round all else, which is added where it is not drawn (`labels.outline`).
    """

    name: str
    value: int
    codes: tuple[Code, ...] = ()
    category: Code | None = None
    region: Code | None = None
    synonyms: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    optional: bool = True
    role: str = "condition"
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    derive: str | None = None


@dataclass(frozen=True)
class LabelScheme:
    """The classes of a model, in the order of its condition channels.

    In a class map, which holds one class per voxel, a class with a higher place in `classes` lies over one with a
    lower place: list the enclosing class first.
    """

    classes: tuple[LabelClass, ...]

    @property
    def condition_classes(self) -> tuple[LabelClass, ...]:
        return tuple(c for c in self.classes if c.role == "condition")

    def like(self, name: str) -> tuple[LabelClass, ...]:
        """The class of that name and those with its SNOMED CT code: the parts of one structure."""
        return tuple(c for c in self.condition_classes if c.name == name or set(c.codes) & set(self[name].codes))

    def __getitem__(self, name: str) -> LabelClass:
        for c in self.classes:
            if c.name == name:
                return c
        raise KeyError(name)

    def containing(self, name: str) -> tuple[int, ...]:
        """Label values whose voxels belong to class `name`: its own and those of the classes within it."""
        return tuple(c.value for c in self.classes if c.name == name or name in c.within)

    @staticmethod
    def from_json(entries: Sequence[Mapping]) -> LabelScheme:
        """Reads the `label_scheme` list of a `model.json`."""

        def code(entry: Mapping | None) -> Code | None:
            return Code(entry["scheme"], entry["value"], entry["meaning"]) if entry else None

        return LabelScheme(
            tuple(
                LabelClass(
                    name=e["name"],
                    value=int(e["value"]),
                    codes=tuple(code(c) for c in e.get("codes", ())),
                    category=code(e.get("category")),
                    region=code(e.get("region")),
                    synonyms=tuple(e.get("synonyms", ())),
                    within=tuple(e.get("within", ())),
                    optional=bool(e.get("optional", True)),
                    role=e.get("role", "condition"),
                    color=tuple(e.get("color", (0.5, 0.5, 0.5))),
                    derive=e.get("derive"),
                )
                for e in entries
            )
        )


def load_scheme(name: str) -> LabelScheme:
    """A label scheme that ships with SynthDiffusion.

    Raises:
        BadInput: no scheme of that name.
    """
    import json

    from SynthDiffusionLib.errors import BadInput
    from SynthDiffusionLib.resources import resource_path

    folder = resource_path("LabelSchemes")
    known = sorted(p.stem for p in folder.glob("*.json"))
    if name not in known:
        raise BadInput(f"Unknown label scheme '{name}'", f"Choose one of: {', '.join(known)}.")
    return LabelScheme.from_json(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
