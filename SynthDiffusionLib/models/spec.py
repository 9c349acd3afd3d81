"""What a `model.json` says, typed and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.models.characteristics import CharacteristicsSpec, characteristics_problems
from SynthDiffusionLib.models.consistency import grid_problems, network_problems
from SynthDiffusionLib.models.names import id_problem, unsafe_name

FORMAT = "synthdiffusion-model-1"
SPEC_NAME = "model.json"

# The only kinds of file that a package may hold, by role: nothing in it can be executed or unpickled.
SUFFIXES = {
    "denoiser": (".safetensors",),
    "segmenter": (".safetensors",),
    "autoencoder": (".safetensors",),
    "controlnet": (".safetensors",),
    "refiner": (".safetensors",),
    "card": (".md",),
    "figure": (".png", ".jpg"),
}


@dataclass(frozen=True)
class NetworkSpec:
    """A network: the plain name of its class and the arguments of its constructor."""

    name: str
    parameters: dict[str, Any]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> NetworkSpec:
        return NetworkSpec(data["class"], {k: v for k, v in data.items() if k != "class"})


@dataclass(frozen=True)
class DiffusionSpec:
    """The forward process, in the words of diffusers; the fields are those of `sampling.schedule.DiffusionSpec`."""

    train_steps: int
    beta_schedule: str
    prediction: str
    beta_start: float = 1e-4
    beta_end: float = 0.02
    shift_numel: int | None = None


@dataclass(frozen=True)
class LatentSpec:
    """What the diffusion of a latent model works on.

    Args:
        channels: of the latent.
        downsampling: voxels of the image per voxel of the latent, along each axis; three numbers where they differ.
        scale_factor: what latents are multiplied by before diffusion and divided by before decoding.
        decoded_range: values of the decoder that stand for the two ends of `IntensitySpec.range`.
        range: values of the latent that diffusion has at -1 and 1, of models that scale it by the ends of their
            codebook; None where `scale_factor` does it alone.
    """

    channels: int
    downsampling: int | tuple[int, int, int]
    scale_factor: float
    decoded_range: tuple[float, float]
    range: tuple[float, float] | None = None

    @property
    def factors(self) -> tuple[int, int, int]:
        """Voxels of the image per voxel of the latent along the three axes."""
        return (self.downsampling,) * 3 if isinstance(self.downsampling, int) else self.downsampling

    def shape(self, grid: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Channels and sides of the latent for a padded grid."""
        return (self.channels, *(n // factor for n, factor in zip(grid, self.factors)))


@dataclass(frozen=True)
class WindowsSpec:
    """How a model that was trained on windows along the third axis makes deeper volumes.

    Args:
        depth: of a window, in voxels of the image.
        stride: from one window to the next.
        join: "steps" averages the windows' predictions at every step, "samples" the finished windows.
    """

    depth: int
    stride: int
    join: str = "steps"


@dataclass(frozen=True)
class ControlsSpec:
    """Which settings of `backends.controls.Controls` the model takes.

    Args:
        condition_scale: whether the strength of the drawing can be set.
        regions: names of body regions, or none.
        modalities: name to class value, or none; the first is the default.
        guidance: whether the model was trained without its condition too, so that it can be led away from that.
    """

    condition_scale: bool = False
    regions: tuple[str, ...] = ()
    modalities: dict[str, int] = field(default_factory=dict)
    guidance: bool = True


@dataclass(frozen=True)
class GridSpec:
    """Which grids the model works on.

    Args:
        spacing_mm: voxel size along the three axes.
        orientation: patient directions of the axes, as in "LPS".
        min_size: smallest number of voxels along each axis.
        max_size: largest number of voxels along each axis.
        divisor: the network's input is padded to a multiple of this; along the third axis a model may need less.
        spacing_range_mm: least and largest spacing along each axis; with it, a segmentation's own spacing is kept, and
            `spacing_mm` is only the default. None: every input is brought to `spacing_mm`.
        default_size: of a volume without a segmentation.
        rules: sizes and fields of view that the model was trained on, see `models.grid_rules`.
    """

    spacing_mm: tuple[float, float, float]
    orientation: str
    min_size: tuple[int, int, int]
    max_size: tuple[int, int, int]
    divisor: int
    spacing_range_mm: tuple[tuple[float, float], ...] | None = None
    default_size: tuple[int, int, int] | None = None
    rules: dict[str, Any] | None = None

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GridSpec:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if "spacing_range_mm" in fields:
            fields["spacing_range_mm"] = tuple(tuple(bounds) for bounds in fields["spacing_range_mm"])
        return GridSpec(**fields)


@dataclass(frozen=True)
class IntensitySpec:
    """The values that map to -1 and 1, in `unit` ("HU" or "arbitrary")."""

    unit: str
    range: tuple[float, float]


@dataclass(frozen=True)
class InpaintSpec:
    """Inpainting: width of the synthesised margin round the drawing, and the longest side of a region, in mm.

    Args:
        default_guidance: instead of that of `SamplingSpec`, for inpainting.
    """

    margin_mm: float
    max_region_mm: float
    default_guidance: float | None = None


@dataclass(frozen=True)
class SamplingSpec:
    """Samplers that the model's schedule bears, and what is used when the user says nothing.

    Args:
        default_guidance: classifier-free guidance scale; 1 is off.
    """

    default_sampler: str
    default_steps: int
    samplers: tuple[str, ...]
    default_guidance: float = 1.0


@dataclass(frozen=True)
class FileSpec:
    """One file of the package: plain name, checksum, size, and what it is for (a key of `SUFFIXES`)."""

    path: str
    sha256: str
    bytes: int
    role: str


@dataclass(frozen=True)
class SegmenterSpec:
    """The small segmenter that mask adherence is measured with, and how well it does on real cases."""

    network: NetworkSpec
    measured: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LicenseSpec:
    """Licence of the weights: SPDX expression, whom to name, and what they may be used for, in words."""

    spdx: str
    attribution: str
    permitted_use: str


@dataclass(frozen=True)
class TrainingSpec:
    """Where the weights come from: data, its licence, the split by patient, and how to train them again."""

    dataset: str
    license: str
    citation: str = ""
    split: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steps: int | None = None
    command: str = ""
    commit: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """The whole `model.json`; `raw` is the JSON it was made from."""

    id: str
    name: str
    version: str
    description: str
    backend: str
    modality: str
    body_part: str
    target_class: str | None
    network: NetworkSpec
    diffusion: DiffusionSpec
    grid: GridSpec
    intensity: IntensitySpec
    label_scheme: LabelScheme
    modes: tuple[str, ...]
    inpaint: InpaintSpec | None
    sampling: SamplingSpec
    files: tuple[FileSpec, ...]
    segmenter: SegmenterSpec | None
    license: LicenseSpec
    training: TrainingSpec
    quality: dict[str, Any]
    performance: dict[str, Any]
    provenance: dict[str, Any]
    raw: dict[str, Any]
    autoencoder: NetworkSpec | None = None
    controlnet: NetworkSpec | None = None
    latent: LatentSpec | None = None
    controls: ControlsSpec = ControlsSpec()
    refiner: NetworkSpec | None = None
    windows: WindowsSpec | None = None
    characteristics: CharacteristicsSpec | None = None

    @property
    def total_bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    def default_guidance(self, mode: str) -> float:
        """The guidance of a mode when the user says nothing."""
        if mode == "unconditional" and not self.controls.modalities:
            return 1.0  # there is nothing to lead to
        if mode == "inpaint" and self.inpaint is not None and self.inpaint.default_guidance is not None:
            return self.inpaint.default_guidance
        return self.sampling.default_guidance

    @property
    def default_guidance_text(self) -> str:
        """ "1.5", or "1.5 (inpainting: 1)"."""
        whole, inpaint = self.default_guidance("whole"), self.default_guidance("inpaint")
        return f"{whole:g}" if whole == inpaint else f"{whole:g} (inpainting: {inpaint:g})"

    @staticmethod
    def from_json(data: Any, source: str = SPEC_NAME, preset: bool = False) -> ModelSpec:
        """Checks the JSON against the schema and for what a schema cannot say.

        Args:
            data: parsed `model.json`.
            source: how to name it in an error.
            preset: it describes a model without weights (`models.presets`), and lists no files.

        Raises:
            ModelError: with the first thing that is wrong.
        """
        from SynthDiffusionLib.schemas import first_problem

        found = str(data.get("format", "")) if isinstance(data, dict) else ""
        if found.startswith("synthdiffusion-model-") and found != FORMAT:
            raise ModelError(
                f"'{source}' is of format {found}; this version reads {FORMAT}",
                "Install a newer SynthDiffusion, or an older package.",
            )
        problem = first_problem(data, "model") or next(_contradictions(data, preset), None)
        if problem:
            raise ModelError(f"'{source}' is not a valid model description: {problem}", "Get the package again.")
        segmenter, inpaint, controls = data.get("segmenter"), data.get("inpaint"), data.get("controls", {})
        return ModelSpec(
            **{k: data[k] for k in ("id", "name", "version", "description", "backend", "modality", "body_part")},
            target_class=data.get("target_class"),
            network=NetworkSpec.from_json(data["network"]),
            diffusion=DiffusionSpec(**data["diffusion"]),
            grid=GridSpec.from_json(data["grid"]),
            intensity=IntensitySpec(data["intensity"]["unit"], tuple(data["intensity"]["range"])),
            label_scheme=LabelScheme.from_json(data["label_scheme"]),
            modes=tuple(data["modes"]),
            inpaint=InpaintSpec(**inpaint) if inpaint else None,
            sampling=SamplingSpec(**data["sampling"] | {"samplers": tuple(data["sampling"]["samplers"])}),
            files=tuple(FileSpec(**f) for f in data["files"]),
            segmenter=SegmenterSpec(
                NetworkSpec.from_json(segmenter["network"]),
                segmenter.get("measured", {}),
                {k: v for k, v in segmenter.items() if k not in ("network", "measured")},
            )
            if segmenter
            else None,
            license=LicenseSpec(**data["license"]),
            training=TrainingSpec(
                **data["training"]
                | {"split": {part: tuple(cases) for part, cases in data["training"].get("split", {}).items()}}
            ),
            quality=data["measured"]["quality"],
            performance=data["measured"]["performance"],
            provenance=data.get("provenance", {}),
            raw=data,
            autoencoder=NetworkSpec.from_json(data["autoencoder"]) if "autoencoder" in data else None,
            controlnet=NetworkSpec.from_json(data["controlnet"]) if "controlnet" in data else None,
            latent=LatentSpec(**_tuples(data["latent"])) if "latent" in data else None,
            controls=ControlsSpec(**_tuples(controls)),
            refiner=NetworkSpec.from_json(data["refiner"]) if "refiner" in data else None,
            windows=WindowsSpec(**data["windows"]) if "windows" in data else None,
            characteristics=CharacteristicsSpec.from_json(data["characteristics"])
            if "characteristics" in data
            else None,
        )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def read_spec(folder: Path) -> ModelSpec:
    """The checked `model.json` of a package folder.

    Raises:
        ModelError: it is missing, not JSON, or not valid.
    """
    from SynthDiffusionLib.schemas import read_json

    path = Path(folder) / SPEC_NAME
    try:
        data = read_json(path)
    except OSError as error:
        raise ModelError(
            f"'{folder}' is not a model package: its {SPEC_NAME} cannot be read ({error.strerror})",
            "Give the folder that holds the model.json.",
        ) from error
    except ValueError as error:
        raise ModelError(f"'{path}' is damaged: {error}", "Get the package again and install it.") from error
    return ModelSpec.from_json(data, str(path))


def size_text(n: float) -> str:
    """Bytes for people: "6.4 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n:.0f} bytes"


def _contradictions(data: Mapping[str, Any], preset: bool) -> Iterator[str]:
    """What is wrong in a description that satisfies the schema."""
    from SynthDiffusionLib.schemas import driving

    if why := id_problem(data["id"]):  # a "$" in the schema's pattern lets a line end pass
        yield f"'id' cannot be {data['id']!r}: {why}"
    yield from _file_problems(data, preset)
    grid = data["grid"]
    if len({{"R": "L", "P": "A", "I": "S"}.get(letter, letter) for letter in grid["orientation"]}) != 3:
        yield f"'grid.orientation' {grid['orientation']} names an axis twice"
    if any(low > high for low, high in zip(grid["min_size"], grid["max_size"])):
        yield "'grid.min_size' is larger than 'grid.max_size'"
    ranges = {"intensity.range": data["intensity"]["range"]}
    if "latent" in data:
        ranges["latent.decoded_range"] = data["latent"]["decoded_range"]
    if "range" in data.get("latent", {}):
        ranges["latent.range"] = data["latent"]["range"]
    if "intensity_range" in data.get("segmenter", {}):
        ranges["segmenter.intensity_range"] = data["segmenter"]["intensity_range"]
    ranges |= {f"grid.spacing_range_mm[{i}]": bounds for i, bounds in enumerate(grid.get("spacing_range_mm", ()))}
    for name, (low, high) in ranges.items():
        if low >= high:
            yield f"'{name}' must rise, not {low} to {high}"
    diffusion = data["diffusion"]
    if (diffusion["beta_schedule"] == "rectified_flow") != (diffusion["prediction"] == "velocity"):
        yield "'diffusion': a rectified_flow predicts the velocity, and nothing else does"
    if diffusion["beta_schedule"] not in ("squaredcos_cap_v2", "rectified_flow"):
        if "beta_start" not in diffusion or "beta_end" not in diffusion:
            yield f"'diffusion' lacks beta_start and beta_end, which the {diffusion['beta_schedule']} schedule needs"
        elif diffusion["beta_start"] > diffusion["beta_end"]:
            yield "'diffusion.beta_start' is larger than 'diffusion.beta_end'"
    yield from _label_problems(data)
    yield from grid_problems(grid)
    if "inpaint" in data["modes"] and "inpaint" not in data:
        yield "'modes' has inpaint, but the section 'inpaint' is missing"
    if "whole" in data["modes"] and not data["label_scheme"]:
        yield "'modes' has whole, but the label scheme has no classes"
    if "unconditional" in data["modes"] and "default_size" not in grid:
        yield "'modes' has unconditional, but 'grid.default_size' is missing"
    if "joint" in data["modes"] and ("characteristics" not in data or "default_size" not in grid):
        yield "'modes' has joint, but 'characteristics' or 'grid.default_size' is missing"
    if "characteristics" in data:
        yield from characteristics_problems(data["characteristics"], [entry["name"] for entry in data["label_scheme"]])
    if not data.get("controls", {}).get("guidance", True) and data["sampling"].get("default_guidance", 1) != 1:
        yield "'sampling.default_guidance' must be 1 where 'controls.guidance' is false"
    if "windows" in data and not 0 < data["windows"]["stride"] <= data["windows"]["depth"]:
        yield "'windows.stride' must be from 1 to 'windows.depth'"
    if ("latent" in data) != ("autoencoder" in data):
        yield "'latent' and 'autoencoder' belong together, and one of them is missing"
    yield from network_problems(data)
    sampling = data["sampling"]
    if sampling["default_sampler"] not in sampling["samplers"]:
        yield f"'sampling.default_sampler' {sampling['default_sampler']} is not among its samplers"
    if sampling["default_steps"] > diffusion["train_steps"]:
        yield "'sampling.default_steps' is larger than 'diffusion.train_steps'"
    parts = list(data["training"].get("split", {}).items())
    for i, (name, cases) in enumerate(parts):
        for other, others in parts[i + 1 :]:
            if both := sorted(set(cases) & set(others)):
                yield f"'training.split' has '{both[0]}' in both {name} and {other}"
    if found := driving(data):
        yield found


def _file_problems(data: Mapping[str, Any], preset: bool) -> Iterator[str]:
    seen = {SPEC_NAME}
    for f in data["files"]:
        if why := unsafe_name(f["path"]):
            yield f"the file '{f['path']}' is refused: {why}"
        if f["path"].casefold() in seen:
            yield f"the file '{f['path']}' is listed twice"
        seen.add(f["path"].casefold())
        if not f["path"].lower().endswith(SUFFIXES[f["role"]]):
            yield f"the file '{f['path']}' cannot be a {f['role']}, which is a {' or '.join(SUFFIXES[f['role']])} file"
    roles = [f["role"] for f in data["files"]]
    if preset:
        if roles:
            yield "a preset has no weights, but 'files' lists some"
        return
    if roles.count("denoiser") != 1:
        yield f"'files' must have one denoiser, not {roles.count('denoiser')}"
    for role in ("segmenter", "autoencoder", "controlnet", "refiner", "card"):
        if roles.count(role) > 1:
            yield f"'files' has {roles.count(role)} files of role {role}"
    for role in ("segmenter", "autoencoder", "controlnet", "refiner"):
        if (role in roles) != (role in data):
            article = "an" if role == "autoencoder" else "a"
            yield f"{article} {role} needs both the section '{role}' and a file of that role"


def _label_problems(data: Mapping[str, Any]) -> Iterator[str]:
    names: list[str] = []
    for entry in data["label_scheme"]:
        for outer in entry.get("within", ()):
            if outer not in names:
                yield f"'label_scheme': '{entry['name']}' is within '{outer}', which must be listed before it"
        names.append(entry["name"])
    for key in ("name", "value"):
        values = [entry[key] for entry in data["label_scheme"]]
        if len(set(values)) < len(values):
            yield f"'label_scheme' has a {key} twice"
    target = data.get("target_class")
    if target is not None and target not in names:
        yield f"'target_class' {target} is not in the label scheme"
