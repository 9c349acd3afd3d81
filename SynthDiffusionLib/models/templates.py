"""What a checkpoint can be fitted to: an installed package, a preset, or a description in a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.folders import package_folders
from SynthDiffusionLib.models.package import ModelPackage, load_package, looks_like_path, path_of, tensor_shapes
from SynthDiffusionLib.models.presets import is_preset, load_preset, networks, preset_ids
from SynthDiffusionLib.models.spec import ModelSpec, NetworkSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.labels.scheme import LabelScheme

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Template:
    """A description that new weights are given, and the package that it is of; None for a preset."""

    spec: ModelSpec
    package: ModelPackage | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    def roles(self) -> tuple[str, ...]:
        """Networks that it describes, without the segmenter, which stays with the model that it came with."""
        return tuple(role for role, _ in networks(self.spec) if role != "segmenter")

    def network(self, role: str) -> NetworkSpec:
        """The network of a role of `roles`."""
        return dict(networks(self.spec))[role]

    def shapes(self, role: str) -> Shapes:
        """Names and shapes of the tensors of a network: those of the package's file, or of the network as described.

        Raises:
            ModelError: the file cannot be read, or the network cannot be built.
        """
        if self.package is not None and self.package.has(role):
            try:
                return tensor_shapes(self.package.file(role))
            except ValueError as error:
                raise ModelError(
                    f"Model '{self.id}': its weights cannot be read ({error})", "Install it again."
                ) from error
        return network_shapes(self.network(role), self.spec.label_scheme)


def find_template(id_or_path: str | os.PathLike[str]) -> Template:
    """A template by what the user names: the ID of an installed package, that of a preset, or a path.

    Args:
        id_or_path: a path may be a package folder, or a file that is a `model.json` with or without "files".

    Raises:
        ModelError: there is none, or it is not valid.
    """
    path = path_of(id_or_path)
    if looks_like_path(id_or_path) and path.is_file():
        return Template(_described(path))
    name = str(id_or_path)
    if not looks_like_path(id_or_path) and name not in package_folders() and is_preset(name):
        return Template(load_preset(name))
    try:
        package = load_package(id_or_path)
    except ModelError as error:
        hint = f"{error.hint} Presets: {', '.join(preset_ids())}." if "no model" in error.message else error.hint
        raise ModelError(error.message, hint) from error
    return Template(package.spec, package)


def _described(path: Path) -> ModelSpec:
    from SynthDiffusionLib.resources import resource_path
    from SynthDiffusionLib.schemas import read_json

    try:
        data = read_json(path)
        if isinstance(data, dict) and isinstance(data.get("label_scheme"), str):
            data["label_scheme"] = read_json(resource_path("LabelSchemes", f"{data['label_scheme']}.json"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{path}' is no description of a model ({error})", "Give a file like those in Resources/Presets."
        ) from error
    if isinstance(data, dict):
        data["files"] = []
    return ModelSpec.from_json(data, str(path), preset=True)


def network_shapes(network: NetworkSpec, scheme: LabelScheme | None = None) -> Shapes:
    """Names and shapes of the tensors of a network, without its memory.

    Raises:
        ModelError: it cannot be built as described.
    """
    classes = None if scheme is None or network.name != "PatchUNet" else scheme
    if classes is not None:
        return _shapes(network, classes)
    key = repr((network.name, sorted(network.parameters.items())))
    return _cached_shapes(_ByText(key, network))


class _ByText:
    """A network spec that is compared by its text, for `cache`."""

    def __init__(self, key: str, network: NetworkSpec) -> None:
        self.key, self.network = key, network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByText) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@cache
def _cached_shapes(network: _ByText) -> Shapes:
    return _shapes(network.network, None)


def _shapes(network: NetworkSpec, scheme: LabelScheme | None) -> Shapes:
    import torch

    from SynthDiffusionLib.networks.build import build_network

    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build_network(network, scheme).state_dict().items()}
