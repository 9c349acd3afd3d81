"""Full-size designs without weights (Resources/Presets): what `plan` and `models show` describe, `train` trains and
`models import` fits checkpoints to. Nothing here imports torch; the parameter counts of `describe` do, when asked for.

A preset is a `model.json` that lists no files. Its label scheme may be the name of one in Resources/LabelSchemes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.models.spec import ModelSpec, NetworkSpec
from SynthDiffusionLib.resources import resource_path


def preset_ids() -> tuple[str, ...]:
    """IDs of all presets, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def is_preset(model_id: str) -> bool:
    """Whether a preset has this ID."""
    return model_id in preset_ids()


def load_preset(model_id: str) -> ModelSpec:
    """The description of a preset; its `files` are empty.

    Raises:
        BadInput: no preset has this ID.
        ModelError: the installation is damaged.
    """
    from SynthDiffusionLib.schemas import closest, read_json

    known = preset_ids()
    if model_id not in known:
        near = closest(model_id, known)
        raise BadInput(
            f"There is no preset '{model_id[:80]}'",
            (f"Did you mean '{near}'? " if near else "") + f"Presets: {', '.join(known)}.",
        )
    path = _folder() / f"{model_id}.json"
    try:
        data = read_json(path)
        if isinstance(data.get("label_scheme"), str):
            data["label_scheme"] = read_json(resource_path("LabelSchemes", f"{data['label_scheme']}.json"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The preset '{model_id}' cannot be read: {error}", "Install SynthDiffusion again.") from error
    spec = ModelSpec.from_json(data, str(path), preset=True)
    if spec.id != model_id:
        raise ModelError(f"'{path}' calls itself '{spec.id}'", "Install SynthDiffusion again.")
    return spec


def latent_shape(spec: ModelSpec, grid: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Channels and sides of what the diffusion works on for a padded grid; None for a model in voxel space."""
    if spec.latent is None:
        return None
    return spec.latent.shape(grid)


def networks(spec: ModelSpec) -> Iterator[tuple[str, NetworkSpec]]:
    """What the networks of a model are for, and what they are: autoencoder, denoiser, control network, refiner,
    segmenter."""
    for role, network in (
        ("autoencoder", spec.autoencoder),
        ("denoiser", spec.network),
        ("controlnet", spec.controlnet),
        ("refiner", spec.refiner),
        ("segmenter", spec.segmenter.network if spec.segmenter else None),
    ):
        if network is not None:
            yield role, network


def parameter_counts(spec: ModelSpec) -> dict[str, int]:
    """Trainable numbers of every network by its role, counted on the networks themselves, without their memory.

    Raises:
        ModelError: a network cannot be built as described.
    """
    from SynthDiffusionLib.networks.build import count_parameters

    return {role: count_parameters(network, spec.label_scheme) for role, network in networks(spec)}


def describe(spec: ModelSpec) -> list[tuple[str, str]]:
    """What a preset's design is, as (label, text) for people; takes a second, for it builds the networks.

    Raises:
        ModelError: a network cannot be built as described.
    """
    names = dict(networks(spec))
    rows = [
        (role.capitalize() if role != "controlnet" else "Control network", f"{names[role].name}, {count / 1e6:.1f} M")
        for role, count in parameter_counts(spec).items()
    ]
    rows = [(label, f"{text} parameters") for label, text in rows]
    largest = spec.grid.max_size
    if shape := latent_shape(spec, largest):
        rows.append(("Latent", f"{_by(shape)} for {_by(largest)} voxels, scale factor {spec.latent.scale_factor:g}"))
    rows.append(("Weights", "none: a preset describes a network to train, or that a checkpoint fits"))
    rows += [("Source" if i == 0 else "", text) for i, text in enumerate(spec.provenance.get("sources", ()))]
    rows += [("Chosen here" if i == 0 else "", text) for i, text in enumerate(spec.provenance.get("chosen", ()))]
    return rows


def _folder() -> Path:
    return resource_path("Presets")


def _by(values: tuple[int, ...]) -> str:
    return " x ".join(map(str, values))
