"""The configuration of somebody else's bundle as plain data: nothing in it is imported, evaluated or called.

MONAI's own parser looks up every `_target_` and evaluates every text that begins with "$". Here the networks are found
by their names in a table (`layout.CLASSES`), and their arguments are plain values, or references ("@other::entry") to
plain values in the same file. Of MONAI's macros ("%entry"), which copy text, those within the file are the same as
references where the values are plain.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.bundles.layout import CLASSES, CONFIGS, ROLES
from SynthDiffusionLib.bundles.source import BundleSource
from SynthDiffusionLib.errors import MissingExtra, ModelError, shortened
from SynthDiffusionLib.models.consistency import unbounded
from SynthDiffusionLib.models.spec import NetworkSpec
from SynthDiffusionLib.schemas import unusable

_LARGEST_YAML = 1 << 20  # the reader is slow
_MOST_VALUES = 2000  # of one network, references followed
_DEEPEST = 20  # references and lists within one another
_LONGEST_TEXT = 200
_REFERENCE = re.compile(r"[@%][\w:#.-]+")
_RESERVED = ("_target_", "_requires_", "_disabled_", "_mode_", "_desc_")  # monai.bundle.config_item.ConfigComponent
_PLAIN_PLEASE = "Ask its author for plain values, or import the checkpoints alone: synthdiffusion models import FILE..."


@dataclass(frozen=True)
class Definition:
    """A network that a configuration defines.

    Args:
        key: name of its entry.
        role: what networks of its class are for.
        network: class and arguments.
    """

    key: str
    role: str
    network: NetworkSpec


@dataclass(frozen=True)
class Configuration:
    """What is read of a configuration.

    Args:
        name: of the file.
        content: parsed, nothing resolved.
    """

    name: str
    content: Mapping[str, Any]

    def definitions(self) -> list[Definition]:
        """The networks among its entries that are known here.

        Raises:
            ModelError: there is none, or one cannot be read without running something.
        """
        known = {key for key, target in self.targets().items() if CLASSES.get(target) in ROLES}
        read = [self._definition(key, self.content[key]) for key in self.content if key in known]
        if found := [definition for definition in read if definition is not None]:
            return found
        named = [f"'{shortened(key)}' ({shortened(target, 60)})" for key, target in self.targets().items()]
        few = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
        raise ModelError(
            f"'{self.name}' defines no network that SynthDiffusion knows" + (f"; it has {few}" if named else ""),
            f"Known are {', '.join(sorted(ROLES))}. Nothing was run.",
        )

    def targets(self) -> dict[str, str]:
        """Names of all that it would have MONAI call, by entry."""
        return {
            key: _text(value["_target_"])
            for key, value in self.content.items()
            if isinstance(value, dict) and "_target_" in value
        }

    def entry(self, key: str) -> tuple[str, Any]:
        """An entry at the top level, or the one that it refers to, and its place in the file.

        Raises:
            ModelError: the reference leads nowhere, or in a circle.
        """
        place, value, followed = key, self.content[key], {key}
        while isinstance(value, str) and value[:1] in ("@", "%") and _REFERENCE.fullmatch(value):
            target = value[1:].replace("#", "::")
            if target in followed:
                raise ModelError(f"'{self.name}': '{shortened(key)}' refers to itself", _PLAIN_PLEASE)
            followed.add(target)
            place, value = target, self._at(target, place)
        return place, value

    def plain(self, value: Any, place: str) -> Any:
        """A value with its references replaced.

        Raises:
            ModelError: it is no plain value.
        """
        return self._plain(value, place, (), [0])

    def is_disabled(self, place: str, entry: Mapping[str, Any]) -> bool:
        """Whether an entry is switched off.

        Raises:
            ModelError: that it says so by an expression.
        """
        disabled = entry.get("_disabled_", False)
        if not isinstance(disabled, bool):
            raise self._not_plain(f"{place}::_disabled_", disabled)
        return disabled

    def _definition(self, key: str, value: Mapping[str, Any]) -> Definition | None:
        if self.is_disabled(key, value):
            return None
        if value.get("_mode_", "default") != "default":
            raise ModelError(
                f"'{self.name}': '{shortened(key)}::_mode_' is {shortened(value['_mode_'], 40)}, which is for "
                "debugging or for functions, not for networks",
                _PLAIN_PLEASE,
            )
        if value.get("_requires_"):
            raise ModelError(
                f"'{self.name}': '{shortened(key)}::_requires_' asks for other things to be run first, which is never "
                "done",
                _PLAIN_PLEASE,
            )
        name = CLASSES[_text(value["_target_"])]
        budget = [0]
        arguments = {
            argument: self._plain(given, f"{key}::{argument}", (), budget)
            for argument, given in value.items()
            if argument not in _RESERVED
        }
        if problem := next(unbounded(arguments, key), None):
            raise ModelError(f"'{self.name}': {problem}", _PLAIN_PLEASE)
        return Definition(key, ROLES[name], NetworkSpec(name, arguments))

    def _plain(self, value: Any, place: str, followed: tuple[str, ...], budget: list[int], depth: int = 0) -> Any:
        """A value with its references replaced.

        Args:
            value: as in the file.
            place: where it is, for the error.
            followed: references on the way here.
            budget: values counted so far, in a list of one.
            depth: of lists and references.
        """
        budget[0] += 1
        if depth > _DEEPEST or budget[0] > _MOST_VALUES:
            raise ModelError(f"'{self.name}': '{shortened(place)}' is nested too deeply, or too long", _PLAIN_PLEASE)
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, list):
            return [self._plain(v, f"{place}::{i}", followed, budget, depth + 1) for i, v in enumerate(value)]
        if isinstance(value, dict) and not any(key in value for key in _RESERVED):
            return {str(k): self._plain(v, f"{place}::{k}", followed, budget, depth + 1) for k, v in value.items()}
        if isinstance(value, str) and value[:1] in ("@", "%") and _REFERENCE.fullmatch(value):
            target = value[1:].replace("#", "::")  # MONAI's older separator
            if target in followed:
                raise ModelError(
                    f"'{self.name}': '{shortened(place)}' refers to itself, by '{shortened(value)}'", _PLAIN_PLEASE
                )
            return self._plain(self._at(target, place), target, (*followed, target), budget, depth + 1)
        if isinstance(value, str) and value[:1] not in ("$", "@", "%") and len(value) <= _LONGEST_TEXT:
            return value
        raise self._not_plain(place, value)

    def _at(self, target: str, place: str) -> Any:
        """What a reference names."""
        value: Any = self.content
        for part in target.split("::"):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and re.fullmatch(r"\d{1,4}", part) and int(part) < len(value):
                value = value[int(part)]
            else:
                raise ModelError(
                    f"'{self.name}': '{shortened(place)}' refers to '{shortened(target)}', which is not in the file",
                    _PLAIN_PLEASE,
                )
        return value

    def _not_plain(self, place: str, value: Any) -> ModelError:
        shown = shortened(value, 80)
        what = "is no plain value"
        if isinstance(value, str) and value.startswith("$"):
            what = "is an expression, which is never run"
        elif isinstance(value, dict):
            what, shown = "is made by another entry, which is never run", shortened(", ".join(map(str, value)), 60)
        return ModelError(f"'{self.name}': '{shortened(place)}' {what} ({shown})", _PLAIN_PLEASE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def read_configuration(source: BundleSource) -> Configuration:
    """The configuration for inference of a bundle.

    Raises:
        ModelError: none, or it cannot be read.
        MissingExtra: it is YAML, and PyYAML is not installed.
    """
    there = set(source.names())
    name = next((n for n in CONFIGS if n in there), None)
    if name is None:
        raise source.missing(CONFIGS[0])
    content = source.json(name) if name.endswith(".json") else _yaml(source, name)
    if problem := unusable(content):
        raise ModelError(f"'{source.path}': its {name} cannot be used: {problem}", "Get the bundle again.")
    return Configuration(name, content)


def _yaml(source: BundleSource, name: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra(f"Reading the bundle's {Path(name).name}", "bundle") from error
    text = source.read(name, _LARGEST_YAML)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        problem = _yaml_problem(root)
        content = None if problem else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else shortened(" ".join(str(error).split()))
        )
        raise ModelError(f"'{source.path}': its {name} is damaged: {reason}", "Get the bundle again.") from error
    if problem or not isinstance(content, dict):
        raise ModelError(
            f"'{source.path}': its {name} {problem or 'is no table of names and values'}", "Get the bundle again."
        )
    return content


def _yaml_problem(root: Any) -> str | None:
    """What no configuration needs: aliases, with which a short file unfolds to one without end, and a key twice."""
    seen, stack = set(), [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            return "has aliases (*NAME), which are not read"
        seen.add(id(node))
        if getattr(node, "id", "") == "mapping":
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(keys)) < len(keys):
                return f"has the key '{shortened(next(key for key in keys if keys.count(key) > 1))}' twice"
            stack += [part for pair in node.value for part in pair]
        elif getattr(node, "id", "") == "sequence":
            stack += node.value
    return None
