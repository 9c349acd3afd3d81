"""How the stages of a job are computed: names that planner, backends and provenance share. Nothing here loads torch.

All of these ways are exact: in fp32 the volumes agree within rounding. Which of them fits a limit is the planner's to
say; a job is told by an `Execution` in its plan.

    Execution(decode=STREAM_HOST)                              # the rest as usual
    Execution.from_json({"denoise": "offload", "decode": "stream"})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from SynthDiffusionLib.errors import BadInput

WHOLE = "whole"  # all at once, all networks on the device
OFFLOAD = "offload"  # all at once, only the networks of the stage on the device
STREAM = "stream"  # the autoencoder slab by slab
STREAM_AGAIN = "stream-recompute"  # the same, maps within blocks computed anew instead of kept
STREAM_HOST = "stream-host"  # the same as "stream", maps in host memory
CHUNK = "chunk"  # convolutions slab by slab
STRATEGIES = (WHOLE, OFFLOAD, STREAM, STREAM_AGAIN, STREAM_HOST, CHUNK)  # in the order of retreat

IN_TURN, TOGETHER = "in-turn", "together"
CHUNK_ELEMENTS = 2**26  # of a convolution's input and result, in a slab

# What a stage computes at once where a method has pieces that do not depend on each other: the fields below.
SLICES, WINDOWS = "slices", "windows"

STAGES = {  # the ways that are there for each stage
    "condition": (WHOLE, OFFLOAD, CHUNK),
    "denoise": (WHOLE, OFFLOAD, CHUNK),
    "decode": STRATEGIES,
    "refine": (WHOLE, OFFLOAD, CHUNK),
}


@dataclass(frozen=True)
class Execution:
    """How a job is computed, stage by stage.

    Args:
        condition: the features of the drawing, which are computed once.
        denoise: the evaluations of the denoiser.
        decode: the autoencoder. One that works slice by slice takes `slices` at a time in every way; a model without
            one has no such stage.
        refine: of a slice-based model.
        guidance: "in-turn": with guidance, the two evaluations of a step come one after the other; "together": in one
            batch, which takes twice the memory.
        channels_last: the weights of three-dimensional convolutions are laid out with the channels innermost, so that
            feature maps are too. Off: on a CPU the U-Nets of MedLoRD and MAISI take 18 % longer with it in fp32, and as
            long in bf16 (24 x 24 x 24 latent voxels, one core); on a GPU it is not measured.
        slices: of a slice-based model, decoded at once. On a CPU more than 8 are slower (Docs/performance.md).
        windows: of Med-LSDM, denoised at once where they are joined at every step.

    Raises:
        BadInput: a way that the stage does not have, or a number that is none.
    """

    condition: str = WHOLE
    denoise: str = WHOLE
    decode: str = WHOLE
    refine: str = WHOLE
    guidance: str = IN_TURN
    channels_last: bool = False
    slices: int = 8
    windows: int = 1

    def __post_init__(self) -> None:
        for name, ways in (*STAGES.items(), ("guidance", (IN_TURN, TOGETHER)), ("channels_last", (False, True))):
            value = getattr(self, name)
            if not any(value is way or (isinstance(value, str) and value == way) for way in ways):
                what = "stage" if name in STAGES else "setting"
                raise BadInput(
                    f"The {what} '{name}' cannot be computed as '{value}'",
                    f"Choose one of: {', '.join(map(str, ways)).lower()}.",
                )
        for name in (SLICES, WINDOWS):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"There cannot be {value} {name} at once", "Give a whole number of at least 1.")

    def of(self, stage: str) -> str:
        """The way of a stage, by the names of the fields."""
        return getattr(self, stage)

    @property
    def summary(self) -> str:
        """The last resort among the ways of the stages, one of `STRATEGIES`."""
        return max((self.of(stage) for stage in STAGES), key=STRATEGIES.index)

    def to_json(self) -> dict[str, Any]:
        """What differs from the usual way; empty where nothing does."""
        usual = asdict(Execution())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Execution:
        """Reads what `to_json` gives; None stands for nothing.

        Raises:
            BadInput: an unknown stage or way.
        """
        content = dict(content or {})
        names = list(asdict(Execution()))
        for name in content:
            if name not in names:
                raise BadInput(f"There is no stage '{name}'", f"The stages and settings are: {', '.join(names)}.")
        return Execution(**content)


DEFAULT_EXECUTION = Execution()
