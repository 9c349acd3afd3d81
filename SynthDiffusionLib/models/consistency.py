"""What the networks and the grid of a `model.json` must have in common: what each part can be on its own, its schema
says. Nothing here imports torch: a description is refused before a network of a wrong size is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.grid_rules import GridRules

# The classes of every backend's networks, by section; an optional one may be missing. Other backends are those of
# later versions, of which nothing is known here.
NETWORK_CLASSES = {
    "patch_ddpm": {"network": "PatchUNet"},
    "medlord": {"network": "DiffusionModelUNet", "autoencoder": "VQVAE", "controlnet": "SlimControlNet"},
    "maisi": {
        "network": "DiffusionModelUNetMaisi",
        "autoencoder": "AutoencoderKlMaisi",
        "controlnet": "ControlNetMaisi",
    },
    "med_lsdm": {"network": "FactorisedUNet", "autoencoder": "VqGan"},
    "slice_ldm": {"network": "SliceUNet", "autoencoder": "SliceVAE", "refiner": "SliceRefiner"},
}
# What only one of these backends knows; the modes of slice_ldm are no others'.
OWNERS = {"windows": "med_lsdm", "characteristics": "slice_ldm"}
SECTIONS = ("network", "autoencoder", "controlnet", "refiner")
OPTIONAL = ("controlnet", "refiner")

# No argument of any published network is near these. Larger ones take all memory, or for ever.
LARGEST_NUMBER = 65536
LONGEST_LIST = 64
DEEPEST = 4


def network_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the networks of a description that satisfies the schema, and with the latent between them."""
    sections = {name: data[name] for name in SECTIONS if name in data}
    segmenter = data.get("segmenter")
    for name, network in (sections | ({"segmenter.network": segmenter["network"]} if segmenter else {})).items():
        yield from unbounded(network, name)
    classes = NETWORK_CLASSES.get(data["backend"])
    if classes is None:
        return
    for name in SECTIONS:
        wanted, found = classes.get(name), sections.get(name, {}).get("class")
        if found is None and (wanted is None or name in OPTIONAL):
            continue
        if found is None:
            yield f"'{name}' is missing, which the backend {data['backend']} needs"
        elif wanted is None:
            yield f"the backend {data['backend']} has no '{name}'"
        elif found != wanted:
            yield f"'{name}.class' must be {wanted} for the backend {data['backend']}, not {_short(found)}"
    for name, owner in OWNERS.items():
        if name in data and data["backend"] != owner:
            yield f"the backend {data['backend']} has no '{name}', which are for {owner}"
    for mode in data["modes"]:
        if (mode == "joint") != (data["backend"] == "slice_ldm"):
            yield f"'modes' has {mode}, which the backend {data['backend']} cannot do"
    if "latent" in data:
        yield from _latent_problems(data)


def grid_problems(grid: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the rules of a grid that satisfies the schema, and with its default size."""
    try:
        rules = GridRules.from_json(grid.get("rules"), grid.get("spacing_range_mm"))
    except ModelError as error:
        yield f"'grid.rules': {error.message}"
        return
    size = grid.get("default_size")
    if size is None:
        return
    if any(not low <= n <= high for low, n, high in zip(grid["min_size"], size, grid["max_size"])):
        yield "'grid.default_size' is not within 'grid.min_size' and 'grid.max_size'"
    if grid.get("rules"):
        yield from (
            f"'grid.default_size' is against 'grid.rules': {why}" for why in rules.problems(size, grid["spacing_mm"])
        )


def unbounded(value: Any, place: str, depth: int = 0) -> Iterator[str]:
    """Numbers that no network has, and lists too long or too deep, anywhere among the arguments."""
    if isinstance(value, Mapping | list):
        if depth == DEEPEST:
            yield f"'{place}' is nested too deeply"
            return
        if len(value) > LONGEST_LIST:
            yield f"'{place}' must have at most {LONGEST_LIST} entries, not {len(value)}"
            return
        named = isinstance(value, Mapping)
        for key, entry in value.items() if named else enumerate(value):
            yield from unbounded(entry, f"{place}.{_short(key)}" if named else f"{place}[{key}]", depth + 1)
    elif isinstance(value, int | float) and not 0 <= value <= LARGEST_NUMBER:  # false for NaN, too
        yield f"'{place}' must be 0 to {LARGEST_NUMBER}, not {_short(value)}"


def _latent_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """Where the latent of a known backend is not that of its networks."""
    network, autoencoder, latent = data["network"], data["autoencoder"], data["latent"]
    channels, downsampling = latent["channels"], latent["downsampling"]
    made = "embedding_dim" if autoencoder["class"] in ("VQVAE", "VqGan") else "latent_channels"
    equal = {
        "network.in_channels": (network.get("in_channels"), "latent.channels", channels),
        "network.out_channels": (network.get("out_channels"), "latent.channels", channels),
        f"autoencoder.{made}": (autoencoder.get(made), "latent.channels", channels),
    }
    if control := data.get("controlnet"):
        equal |= _control_pairs(control, data)
    equal |= _method_pairs(data)
    for name, (found, other, wanted) in equal.items():
        if found != wanted:
            yield f"'{name}' is {'missing' if found is None else _short(found)}, but {other} is {_short(wanted)}"
    factor = _downsampling(autoencoder)
    if factor != downsampling:
        yield f"'latent.downsampling' is {downsampling}, but the autoencoder's is {factor or 'not described'}"
    if control and control["class"] == "ControlNetMaisi":
        yield from _code_problems(control, data)


def _method_pairs(data: Mapping[str, Any]) -> dict[str, tuple[Any, str, Any]]:
    """Of the methods' own networks: name of an argument to its value, and name and value of what it must equal."""
    network, autoencoder, latent = data["network"], data["autoencoder"], data["latent"]
    classes = sum(entry.get("role", "condition") == "condition" for entry in data["label_scheme"])
    pairs: dict[str, tuple[Any, str, Any]] = {}
    if network["class"] == "FactorisedUNet":
        channels = ("the number of classes that condition, and the background", classes + 1)
        pairs["network.condition_channels"] = (network.get("condition_channels"), *channels)
        if autoencoder.get("condition_channels"):
            pairs["autoencoder.condition_channels"] = (autoencoder["condition_channels"], *channels)
        pairs["network.mask_downsampling"] = (
            network.get("mask_downsampling", 4),
            "latent.downsampling",
            latent["downsampling"],
        )
    if network["class"] == "SliceUNet" and "refiner" in data:
        pairs["refiner.latent_channels"] = (
            data["refiner"].get("latent_channels"),
            "latent.channels",
            latent["channels"],
        )
    return pairs


def _control_pairs(control: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, tuple[Any, str, Any]]:
    """Of a known control network: name of an argument to its value, and name and value of what it must equal."""
    latent, scheme = data["latent"], data["label_scheme"]
    pairs = {"controlnet.in_channels": (control.get("in_channels"), "latent.channels", latent["channels"])}
    if control["class"] == "SlimControlNet":
        classes = sum(entry.get("role", "condition") == "condition" for entry in scheme)
        return pairs | {
            "controlnet.downsampling": (control.get("downsampling", 4), "latent.downsampling", latent["downsampling"]),
            "controlnet.condition_channels": (
                control.get("condition_channels"),
                "the number of classes that condition",
                classes,
            ),
            "controlnet.unet_channels": (
                control.get("unet_channels"),
                "network.channels",
                data["network"].get("channels"),
            ),
        }
    return pairs | {
        "controlnet.num_channels": (
            control.get("num_channels"),
            "network.num_channels",
            data["network"].get("num_channels"),
        ),
    }


def _code_problems(control: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    """Where the drawing, in binary, does not fit MAISI's control network."""
    digits, widths = (control.get(f"conditioning_embedding_{name}") for name in ("in_channels", "num_channels"))
    needed = max((entry["value"] for entry in data["label_scheme"]), default=0).bit_length()
    if not isinstance(digits, int) or not needed <= digits <= 8:
        yield (
            f"'controlnet.conditioning_embedding_in_channels' must be {needed} to 8, the binary digits of the labels, "
            f"not {_short(digits)}"
        )
    factor = 2 ** (len(widths) - 1) if isinstance(widths, list) and widths else None
    if factor != data["latent"]["downsampling"]:
        yield (
            f"'controlnet.conditioning_embedding_num_channels' shrinks by {factor}, but latent.downsampling is "
            f"{data['latent']['downsampling']}"
        )


def _downsampling(autoencoder: Mapping[str, Any]) -> int | list[int] | None:
    """Voxels per voxel of the latent along each axis; None where the arguments do not say."""
    if autoencoder["class"] == "VqGan":
        return autoencoder.get("downsampling")
    if autoencoder["class"] == "SliceVAE":
        strides = autoencoder.get("strides")
        if not isinstance(strides, list) or not all(isinstance(n, int) for n in strides):
            return None
        return [math.prod(strides)] * 2 + [1]
    if autoencoder["class"] == "AutoencoderKlMaisi":
        return 2 ** (len(autoencoder["num_channels"]) - 1) if "num_channels" in autoencoder else None
    levels = autoencoder.get("downsample_parameters")
    if not isinstance(levels, list) or not all(isinstance(p, list) and p and isinstance(p[0], int) for p in levels):
        return None
    return math.prod(p[0] for p in levels)


def _short(value: Any) -> str:
    """One line of a few words, whatever a file has there."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
