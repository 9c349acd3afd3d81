"""Makes a package of a MONAI bundle. Its files are read as data: no expression is run, no code in it is imported."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.bundles.config_values import Configuration, Definition, read_configuration
from SynthDiffusionLib.bundles.layout import METADATA, MODELS
from SynthDiffusionLib.bundles.restore import description_of, is_own, read_own, write_package
from SynthDiffusionLib.bundles.schedulers import compare_diffusion
from SynthDiffusionLib.bundles.source import BundleSource, open_bundle
from SynthDiffusionLib.errors import ModelError, escaped, shortened
from SynthDiffusionLib.models.checkpoints import TORCH_SUFFIXES
from SynthDiffusionLib.models.registry import Installed, put_package
from SynthDiffusionLib.models.spec import NetworkSpec

if TYPE_CHECKING:
    import torch

    from SynthDiffusionLib.models.templates import Shapes

_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
_MOST_WEIGHTS = 20
# Arguments that change how a network computes or is trained, not what it gives.
_SAME_RESULT = {
    "commitment_cost",
    "ddp_sync",
    "decay",
    "dim_split",
    "dropout",
    "dropout_cattn",
    "embedding_init",
    "epsilon",
    "norm_float16",
    "num_splits",
    "print_info",
    "save_mem",
    "upcast_attention",
    "use_checkpoint",
    "use_checkpointing",
    "use_flash_attention",
}
_SECTIONS = {"denoiser": "network"}


@dataclass(frozen=True)
class _Described:
    """A definition as `models.fitting` asks for what weights are compared with."""

    definition: Definition

    def network(self, role: str) -> NetworkSpec:
        return self.definition.network

    def shapes(self, role: str) -> Shapes:
        from SynthDiffusionLib.models.templates import network_shapes
        from SynthDiffusionLib.networks.build import check_size

        try:
            check_size(self.definition.network)
            return network_shapes(self.definition.network)
        except ModelError as error:
            raise ModelError(
                f"'{self.definition.key}' of the bundle: {error.message}", "Ask its author for a bundle that loads."
            ) from error


@dataclass(frozen=True)
class _Weights:
    """A file of weights, and what the network in it is for."""

    name: str
    path: Path
    role: str
    tensors: Mapping[str, torch.Tensor]


def is_bundle_path(path: str | os.PathLike[str]) -> bool:
    """Whether what a user names is a folder or a .zip rather than a checkpoint."""
    try:
        return str(path).lower().endswith(".zip") or Path(path).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # no path of this system
        return False


def import_bundle(path: str | os.PathLike[str], new_id: str, like: str | os.PathLike[str] | None = None) -> Installed:
    """Reads a MONAI bundle and installs it as a package.

    A bundle that `export bundle` has written comes back as the package that it was; if its weights or its description
    were changed, without what was known of the exported model. Of another bundle, the networks that its configuration
    defines are compared with its weights, and both with the package or preset that they fit.

    Args:
        path: folder of the bundle, or a .zip of it.
        new_id: ID of the new package.
        like: as for `models.import_checkpoint`; only for bundles that were not exported by SynthDiffusion.

    Raises:
        ModelError: no bundle, damaged, of an unknown network, or it could not be read without running something.
        RunFailed: the disk is full.
    """
    from SynthDiffusionLib.models.importers import check_new_id

    check_new_id(new_id)
    with open_bundle(Path(path)) as source:
        metadata = source.json(METADATA)
        if is_own(metadata):
            if like is not None:
                raise ModelError(f"'{path}' brings its own description", "Leave --like out.")
            return _own(source, metadata, new_id)
        return _foreign(source, metadata, new_id, like)


def _own(source: BundleSource, metadata: Mapping[str, Any], new_id: str) -> Installed:
    from SynthDiffusionLib.models.package import sha256_of

    own = read_own(source, metadata)
    provenance = dict(description_of(own).get("provenance", {}))
    provenance["imported_bundle"] = {
        "model": f"{own.spec.id} {own.spec.version}",
        "unchanged": own.unchanged,
        **({"description_changed": list(own.rewritten)} if own.rewritten else {}),
        "metadata_sha256": sha256_of(source.file(METADATA)),
    }
    if own.notes:
        provenance["notes"] = [*provenance.get("notes", []), *own.notes]
    changes: dict[str, Any] = {"id": new_id, "provenance": provenance}
    return put_package(new_id, lambda folder: write_package(own, folder, changes))


def _foreign(
    source: BundleSource, metadata: Mapping[str, Any], new_id: str, like: str | os.PathLike[str] | None
) -> Installed:
    from SynthDiffusionLib.models.catalogue import origin_by_checksums
    from SynthDiffusionLib.models.importers import Origin, convert, install_converted
    from SynthDiffusionLib.models.package import sha256_of
    from SynthDiffusionLib.models.templates import find_template

    template = None if like is None else find_template(like)
    configuration = read_configuration(source)
    definitions = configuration.definitions()
    notes = [*_code_notes(source)]
    chosen = _matched(source, configuration, definitions, notes)
    files = [weights.path for weights, _ in chosen]
    importer, converted = convert(files, template)
    for _, definition in chosen:
        _compare_arguments(configuration, definition, converted.description)
    notes += compare_diffusion(configuration, converted.description)
    origin = origin_by_checksums([sha256_of(path) for path in files]) or Origin()
    known = {
        key: shortened(metadata[key], 200) for key in ("name", "version", "authors", "copyright") if metadata.get(key)
    }
    earlier = converted.description.get("provenance", {}).get("notes", [])
    origin = replace(
        origin,
        provenance={**origin.provenance, "bundle": known, "notes": [*earlier, *map(escaped, notes)]},
        card=origin.card or _card(known),
    )
    return install_converted(files, new_id, f"bundle, {importer}", converted, origin)


def _card(known: Mapping[str, str]) -> str:
    said = "; ".join(f"{key}: {value}" for key, value in known.items())
    return f"From a MONAI bundle, which says of itself: {said or 'nothing'}. Licence and training data are unknown."


def _code_notes(source: BundleSource) -> Iterator[str]:
    code = [name for name in source.names() if name.endswith((".py", ".pyc", ".so", ".dll", ".pyd"))]
    if code:
        few = ", ".join(map(shortened, code[:3])) + (f" and {len(code) - 3} more" if len(code) > 3 else "")
        yield f"The bundle holds program code ({few}), of which nothing was imported or run."


def _matched(
    source: BundleSource, configuration: Configuration, definitions: list[Definition], notes: list[str]
) -> list[tuple[_Weights, Definition]]:
    """The files of weights to take, each with the definition of its network.

    Raises:
        ModelError: weights and definitions do not agree.
    """
    from SynthDiffusionLib.models.fitting import misfit

    found = sorted(_read_weights(source, notes), key=lambda w: w.role != "denoiser")
    denoisers = [w.tensors for w in found if w.role == "denoiser"]
    chosen: list[tuple[_Weights, Definition]] = []
    wrong: list[tuple[str, ModelError]] = []
    for weights in found:
        candidates = [d for d in definitions if d.role == weights.role]
        if not candidates:
            raise ModelError(
                f"'{configuration.name}' defines no {weights.role}, but '{weights.name}' is one",
                "Ask its author for the definition, or import the checkpoints alone.",
            )
        misfits = []
        for definition in candidates:
            others = denoisers if weights.role == "controlnet" else [{}]
            differences = [
                misfit(weights.role, weights.tensors, _Described(definition), other) for other in others or [{}]
            ]
            if any(difference is None for difference in differences):
                chosen.append((weights, definition))
                break
            misfits.append((min(differences, key=lambda m: m.count), definition))
        else:
            nearest, definition = min(misfits, key=lambda entry: entry[0].count)
            message = (
                f"'{weights.name}' is not the network '{definition.key}' of '{configuration.name}': {nearest.text}"
            )
            wrong.append((weights.role, ModelError(message, "Get the bundle again, or ask its author which is right.")))
    roles = [weights.role for weights, _ in chosen]
    for role, error in wrong:
        if role not in roles:
            raise error
        notes.append(f"Left out: {error.message}.")
    for definition in definitions:
        if definition.role not in roles:
            raise ModelError(f"The weights of '{definition.key}' are not in '{source.path}'", _where_weights(source))
    return chosen


def _where_weights(source: BundleSource) -> str:
    if any(name.startswith("large_files.") for name in source.names()):
        return "They come apart from it: see its large_files file, and put them into its folder models."
    return f"Put them into its folder {MODELS}."


def _read_weights(source: BundleSource, notes: list[str]) -> Iterator[_Weights]:
    """All networks in the bundle's folder of weights that are no generators of masks."""
    from SynthDiffusionLib.models.checkpoints import read_content, state_dict
    from SynthDiffusionLib.models.released import MaskGenerator, recognise

    names = [name for name in source.names() if name.startswith(f"{MODELS}/") and name.count("/") == 1]
    weights = [name for name in names if name.lower().endswith(_SUFFIXES)]
    programs = [name for name in names if name.lower().endswith((".ts", ".torchscript"))]
    if not weights and programs:
        raise ModelError(
            f"'{source.path}' has its weights as TorchScript only ('{programs[0]}'): a program, which is never run",
            "Ask for the state dict (models/model.pt).",
        )
    if not weights:
        raise ModelError(f"'{source.path}' has no weights in its folder {MODELS}", _where_weights(source))
    if len(weights) > _MOST_WEIGHTS:
        raise ModelError(
            f"'{source.path}' has {len(weights)} files of weights, at most {_MOST_WEIGHTS} are read",
            f"Leave those in {MODELS} that make one model.",
        )
    if programs:
        notes.append(f"Not read: {', '.join(map(shortened, programs))}, which are programs (TorchScript).")
    for name in weights:
        path = source.file(name)
        content = read_content(path)
        try:
            part = recognise(content, path)
        except MaskGenerator:
            notes.append(f"Left out: '{name}' generates segmentations, which are drawn here.")
            continue
        if part is None:
            yield _Weights(name, path, "denoiser", state_dict(content, path))
        else:
            yield _Weights(name, path, part.role, part.tensors)


def _compare_arguments(configuration: Configuration, definition: Definition, description: Mapping[str, Any]) -> None:
    """Refuses arguments that the weights do not show, and that are not those of the description which they fit."""
    taken = NetworkSpec.from_json(description[_SECTIONS.get(definition.role, definition.role)])
    ours, theirs = _effective(taken), _effective(definition.network)
    for name in sorted(set(ours) & set(theirs) - _SAME_RESULT):
        if not _same(ours[name], theirs[name]):
            template = description.get("provenance", {}).get("template", "the description that they fit")
            raise ModelError(
                f"'{configuration.name}': '{definition.key}::{name}' is {shortened(theirs[name], 60)}, but the weights "
                f"fit {template}, which has {shortened(ours[name], 60)}",
                "Name a model or preset with the same arguments by --like.",
            )


def _effective(network: NetworkSpec) -> dict[str, Any]:
    """The arguments of a network with its constructor's defaults."""
    import torch

    from SynthDiffusionLib.networks.build import build_network

    with torch.device("meta"):
        made = build_network(network) if network.name != "PatchUNet" else None
    if made is None:  # the number of its inputs follows from the label scheme, and shows in the weights
        from SynthDiffusionLib.networks.patch_unet import PatchUNet

        parameters = inspect.signature(PatchUNet).parameters
        left_out = {"in_channels"}
    else:
        parameters, left_out = inspect.signature(type(made)).parameters, set()
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return {n: v for n, v in (defaults | network.parameters).items() if n not in left_out}


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments mean the same: one number for all levels may be written as a list of it."""
    a, b = (list(v) if isinstance(v, tuple) else v for v in (a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, list) or isinstance(b, list):
        many, one = (a, b) if isinstance(a, list) else (b, a)
        return bool(many) and all(_same(value, one) for value in many)
    return a == b and isinstance(a, bool) == isinstance(b, bool)
