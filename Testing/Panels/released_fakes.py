"""Models like those that others have released: descriptions with limits and controls, and entries of the catalogue."""

from __future__ import annotations

from panel_harness import shipped_model

ORGANS = [f"organ {n}" for n in range(1, 131)]
GRID = {
    "spacing_mm": [0.75, 0.75, 3.0],
    "orientation": "LPS",
    "min_size": [128, 128, 128],
    "max_size": [512, 512, 768],
    "divisor": 32,
    "spacing_range_mm": [[0.5, 3.0], [0.5, 3.0], [0.5, 5.0]],
    "default_size": [512, 512, 128],
    "rules": {
        "in_plane": [256, 384, 512],
        "through_plane": [128, 256],
        "least_field_of_view_mm": 256,
        "least_field_of_view_body_mm": 384,
    },
}
FLOW = {"default_sampler": "euler", "default_steps": 30, "samplers": ["euler", "heun", "dpmpp-2m", "maisi-rflow"]}
NON_COMMERCIAL = {
    "spdx": "LicenseRef-NVIDIA-OneWay-Noncommercial",
    "name": "NVIDIA One-Way Noncommercial License",
    "url": "https://example.org/licence?a=1&b=2",
    "permitted_use": "NON-COMMERCIAL: for research or evaluation only.",
}


def classes(names) -> list[dict]:
    return [{"name": name, "value": n, "optional": True} for n, name in enumerate(names, start=1)]


def ct_model(**changes):
    """A model of 132 classes, with rules for its sizes, that also works without a drawing."""
    description = {
        "id": "many-ct",
        "name": "Many CT",
        "label_scheme": classes(["liver", "left_kidney", *ORGANS]),
        "target_class": None,
        "grid": GRID,
        "modes": ["whole", "unconditional"],
        "inpaint": None,
        "sampling": FLOW,
        "controls": {"condition_scale": True, "regions": ["head", "chest", "abdomen"], "modalities": {"CT": 1}},
    }
    return shipped_model(**description | changes)


def mr_model(**changes):
    """A model that makes MR without a drawing, of several kinds."""
    description = {
        "id": "some-mr",
        "name": "Some MR",
        "modality": "MR",
        "label_scheme": [],
        "modes": ["unconditional"],
        "controls": {"modalities": {"T1": 9, "T2": 10}},
        "license": NON_COMMERCIAL | {"attribution": "X"},
        "measured": {"quality": {}, "performance": {}},
    }
    return ct_model(**description | changes)


def entry(**changes) -> dict:
    """One of the "available" of `synthdiffusion models list --json`."""
    return {
        "id": "some-mr",
        "name": "Some MR",
        "description": "MR of the brain, without a drawing.",
        "modality": "MR",
        "backend": "maisi",
        "modes": ["unconditional"],
        "license": NON_COMMERCIAL,
        "gated": True,
        "bytes": 3_140_000_000,
        "installed": False,
    } | changes


def available(**changes):
    """The same, as the engine keeps it."""
    from SynthDiffusionJobs.Engine import _availableOf

    return _availableOf(entry(**changes))
