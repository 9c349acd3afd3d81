"""What the schedulers that a bundle's configuration defines say of the diffusion, with the defaults of their classes.

A scheduler is looked up by the name of its class in a table of MONAI's; what the bundle names is never imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from SynthDiffusionLib.bundles.config_values import Configuration
from SynthDiffusionLib.errors import ModelError, shortened

_KEYS = ("noise_scheduler", "scheduler")  # entries that a scheduler has in the bundles of the model zoo
_FLOW = "RFlowScheduler"
_CLASSES = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", _FLOW)
# Arguments of these classes by what they are here.
_ARGUMENTS = {
    "train_steps": "num_train_timesteps",
    "prediction": "prediction_type",
    "beta_schedule": "schedule",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "shift_numel": "base_img_size_numel",
}
_SCHEDULES = {"linear_beta": "linear", "scaled_linear_beta": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_COSINE_OFFSET = 0.008  # of `squaredcos_cap_v2` here: Nichol and Dhariwal, arXiv:2102.09672, section 3.2


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of a configuration.

    Args:
        key: of its entry, as in "sampler::scheduler".
        target: its class, as written.
        arguments: those that are given, as plain values.
    """

    key: str
    target: str
    arguments: Mapping[str, Any]

    @property
    def known(self) -> str | None:
        """The class of MONAI that is meant, wherever it is said to lie."""
        name = self.target.rpartition(".")[2]
        return name if name in _CLASSES else None


def schedulers(configuration: Configuration) -> list[Scheduler]:
    """All schedulers of known classes, wherever in the configuration, and what `_KEYS` name or refer to. Disabled ones
    are passed over.

    Raises:
        ModelError: an argument of one is no plain value, or a reference leads nowhere.
    """
    found: dict[str, Scheduler] = {}
    for place, entry in _entries(configuration.content):
        target = entry.get("_target_")
        if isinstance(target, str) and target.rpartition(".")[2] in _CLASSES:
            _add(found, configuration, place, entry)
    for key in _KEYS:
        if key in configuration.content:
            place, entry = configuration.entry(key)
            if isinstance(entry, dict):
                _add(found, configuration, place, entry)
    return list(found.values())


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    stack: list[tuple[str, Any]] = [(str(key), value) for key, value in content.items()]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            yield place, value
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        stack += [(f"{place}::{key}", inner) for key, inner in pairs]


def _add(found: dict[str, Scheduler], configuration: Configuration, place: str, entry: Mapping[str, Any]) -> None:
    if place in found or configuration.is_disabled(place, entry):
        return
    target = entry.get("_target_")
    wanted = {*_ARGUMENTS.values(), "s"}
    arguments = {name: configuration.plain(entry[name], f"{place}::{name}") for name in entry if name in wanted}
    found[place] = Scheduler(place, target if isinstance(target, str) else "", arguments)


def compare_diffusion(configuration: Configuration, description: Mapping[str, Any]) -> list[str]:
    """Compares the schedulers of a configuration with the description that its weights fit.

    Args:
        description: `model.json`, of which "diffusion" is read.

    Returns:
        what could not be compared, in sentences.

    Raises:
        ModelError: a scheduler is of another diffusion.
    """
    notes, diffusion = [], description["diffusion"]
    for scheduler in schedulers(configuration):
        if scheduler.known is None:
            notes.append(
                f"The scheduler '{shortened(scheduler.key, 60)}' is of a class that is not known here "
                f"({shortened(scheduler.target, 60) or 'none is named'}): of it, only the arguments that are written "
                "down were compared."
            )
        for name, (place, value) in _said(scheduler).items():
            wanted = diffusion.get(name)
            if name in ("beta_start", "beta_end") and diffusion["beta_schedule"] in ("rectified_flow", _cosine()):
                wanted = None  # which have none
            if not _equal(value, wanted):
                raise ModelError(
                    f"'{configuration.name}': '{shortened(place)}' is {shortened(value, 60)}, but the description that "
                    f"the weights fit has {'none' if wanted is None else wanted}",
                    "Name a model or preset with the same diffusion by --like.",
                )
    return notes


def _cosine() -> str:
    return _SCHEDULES["cosine"]


def _said(scheduler: Scheduler) -> dict[str, tuple[str, Any]]:
    """Entries of `models.spec.DiffusionSpec`, each with its place in the file."""
    key, written = scheduler.key, dict(scheduler.arguments)
    places = {argument: f"{key}::{argument}" for argument in written}
    if scheduler.known == _FLOW:
        for argument in ("schedule", "prediction_type"):
            written.pop(argument, None)
    values = _defaults(scheduler.known, written) | written
    offset = values.pop("s", _COSINE_OFFSET)
    if values.get("schedule") == "cosine" and not _equal(offset, _COSINE_OFFSET):
        values["schedule"] = f"cosine with an offset s of {offset}"
    found = {
        name: (places.get(argument, f"{key}::{argument} (by default)"), _renamed(values[argument]))
        for name, argument in _ARGUMENTS.items()
        if argument in values
    }
    if scheduler.known == _FLOW or scheduler.target.endswith(_FLOW):
        found |= {
            "beta_schedule": (f"{key}::_target_", "rectified_flow"),
            "prediction": (f"{key}::_target_", "velocity"),
        }
    return found


def _renamed(value: Any) -> Any:
    return _SCHEDULES.get(value, value) if isinstance(value, str) else value


def _defaults(known: str | None, written: Mapping[str, Any]) -> dict[str, Any]:
    """What a class of MONAI takes for the arguments that are not written down."""
    if known is None:
        return {}
    from monai.networks import schedulers as monai_schedulers
    from monai.networks.schedulers.scheduler import NoiseSchedules

    defaults = _parameters(getattr(monai_schedulers, known))
    defaults.pop("base_img_size_numel", None)  # counts only with use_timestep_transform, which sampling sets
    schedule = written.get("schedule", defaults.get("schedule"))
    if schedule in _SCHEDULES:
        defaults |= _parameters(NoiseSchedules[schedule])
    return {name: value for name, value in defaults.items() if name in (*_ARGUMENTS.values(), "s")}


def _parameters(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    given = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {name: str(value) if isinstance(value, str) else value for name, value in given.items()}


def _equal(value: Any, wanted: Any) -> bool:
    """Whether they are the same number or text; true and false are no numbers."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return type(value) in (int, float, str, type(None)) and value == wanted
