"""The way of computing that fits a limit: the fastest exact one for every stage. Nothing here loads torch.

The order of retreat is the project's: everything on the device; only the networks of one stage; the autoencoder slab by
slab, then with its maps in host memory; convolutions slab by slab. All of these are exact. Lower precision changes the
image: it comes last (`memory.predict`), and is warned of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from SynthDiffusionLib.memory.devices import GIB
from SynthDiffusionLib.memory.execution import (
    CHUNK,
    DEFAULT_EXECUTION,
    OFFLOAD,
    STAGES,
    STRATEGIES,
    STREAM,
    STREAM_AGAIN,
    STREAM_HOST,
    WHOLE,
    Execution,
)

PRECISION = "precision"
RETREAT = (*STRATEGIES, PRECISION)
LOSSY = (PRECISION,)

WORDS = {
    WHOLE: "the volume at once, all networks on the device",
    OFFLOAD: "only the networks of the stage on the device",
    STREAM: "the autoencoder slab by slab, exact",
    STREAM_AGAIN: "the autoencoder slab by slab, large maps computed anew instead of kept, exact",
    STREAM_HOST: "the autoencoder slab by slab, its maps in host memory, exact",
    CHUNK: "convolutions slab by slab, exact",
    PRECISION: "in 16 bits, which changes the image a little",
}


Step = tuple[str, tuple[str, int] | None]


@dataclass(frozen=True)
class Option:
    """One way of computing a stage.

    Args:
        way: one of `execution.STRATEGIES`.
        device_bytes: predicted peak of the process on the device, as its driver counts; on a CPU, of the process.
        host_bytes: predicted peak of the process in host memory; 0 on a CPU, where `device_bytes` is that.
        refused: why it cannot be computed so, whatever the limit; "" where it can.
        pieces: field of `Execution` and number of what is computed at once (`memory.at_once`); None where it has none.
    """

    way: str
    device_bytes: int
    host_bytes: int = 0
    refused: str = ""
    pieces: tuple[str, int] | None = None

    @property
    def step(self) -> Step:
        """The way with its number of pieces."""
        return (self.way, self.pieces)


@dataclass(frozen=True)
class StageOptions:
    """The ways of computing one stage.

    Args:
        name: of the stage.
        options: in the order of retreat; may be made as they are asked for.
        steps: of all options, in that order.
    """

    name: str
    options: Iterable[Option]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Choice:
    """How a volume is to be computed.

    Args:
        fits: every stage has an option within the limits.
        precision: "fp32", "bf16" or "fp16".
        strategy: the last resort among those of the stages, one of `RETREAT`.
        stages: the option of each stage by its name; of one that does not fit, the one that takes least.
        steps: of each stage, the chosen way and then the later ones, for when the device runs out in spite of the
            prediction.
        reasons: why, a sentence for each stage that had to retreat.
        warnings: what changes the image.
        least_limit: bytes of the device that the size takes at least where it does not fit; else what is chosen. Where
            host memory alone is what is too little, in the way that takes least of that within the device's limit.
        least_host: bytes of host memory that go with it.
        largest_size: the largest other size that fits where this one does not; None: none does.
    """

    fits: bool
    precision: str
    strategy: str
    stages: dict[str, Option]
    steps: dict[str, tuple[Step, ...]]
    reasons: tuple[str, ...]
    least_limit: int
    least_host: int
    warnings: tuple[str, ...] = field(default=())
    largest_size: tuple[int, int, int] | None = None

    def execution(self, asked: Execution = DEFAULT_EXECUTION) -> Execution:
        """What a backend is told.

        Args:
            asked: where the settings beside the ways are from.
        """
        for name, option in self.stages.items():
            if name in STAGES:
                asked = stepped(asked, name, option.step)
        return asked

    @property
    def exact(self) -> bool:
        return self.strategy not in LOSSY

    @property
    def peak_bytes(self) -> int:
        """Of the whole run on the device."""
        return max(option.device_bytes for option in self.stages.values())

    @property
    def host_bytes(self) -> int:
        """Of the whole run in host memory, beside a GPU."""
        return max(option.host_bytes for option in self.stages.values())


def stepped(execution: Execution, stage: str, step: Step) -> Execution:
    """An execution with one stage computed in another way."""
    way, pieces = step
    return replace(execution, **{stage: way, **dict([pieces] if pieces else [])})


def choose(
    stages: Iterable[StageOptions], limit: int | None, precision: str, *, host_limit: int | None = None
) -> Choice:
    """Takes for every stage the first option within the limits.

    Args:
        stages: of the size that is asked for.
        limit: bytes of the process on the device; None: none.
        precision: that the options are for.
        host_limit: bytes of the process in host memory; None: none.

    Raises:
        ValueError: no stage, or a stage without options.
    """
    chosen: dict[str, Option] = {}
    steps: dict[str, tuple[Step, ...]] = {}
    reasons, fits, least, least_host = [], True, 0, 0
    for stage in stages:
        passed: list[Option] = []
        taken = None
        for option in stage.options:
            if not option.refused and _within(option, limit, host_limit):
                taken = option
                break
            passed.append(option)
        smallest = taken
        if taken is None:
            possible = [option for option in passed if not option.refused]
            if not possible:
                raise ValueError(f"the stage '{stage.name}' has no option")
            fits = False
            taken = smallest = _least(possible, limit)
            reasons.append(f"{stage.name}: nothing fits; {_passed_over(passed, limit, host_limit)}")
        elif passed := [option for option in passed if option.way != taken.way]:
            reasons.append(f"{stage.name}: {WORDS[taken.way]}, since {_passed_over(passed, limit, host_limit)}")
        steps[stage.name] = stage.steps[stage.steps.index(taken.step) :]
        least, least_host = max(least, smallest.device_bytes), max(least_host, smallest.host_bytes)
        chosen[stage.name] = taken
    if not chosen:
        raise ValueError("no stage")
    strategy = max((option.way for option in chosen.values()), key=RETREAT.index)
    return Choice(fits, precision, strategy, chosen, steps, tuple(reasons), least, least_host)


def _least(options: list[Option], limit: int | None) -> Option:
    """The option that asks for least more: of those that fit the device the one with the least host memory."""
    on_device = [option for option in options if limit is None or option.device_bytes <= limit]
    if on_device:
        return min(on_device, key=lambda option: (option.host_bytes, option.device_bytes))
    return min(options, key=lambda option: (option.device_bytes, option.host_bytes))


def _within(option: Option, limit: int | None, host_limit: int | None) -> bool:
    return (limit is None or option.device_bytes <= limit) and (host_limit is None or option.host_bytes <= host_limit)


def _passed_over(passed: list[Option], limit: int | None, host_limit: int | None) -> str:
    """What the passed options would take, by the limit that each of them passes."""
    parts = []
    for option in {option.way: option for option in passed}.values():  # of each way the one that takes least
        if option.refused:
            parts.append(f"{option.way} cannot be done ({option.refused})")
        elif limit is not None and option.device_bytes > limit:
            parts.append(f"{option.way} takes {option.device_bytes / GIB:.2f} GiB")
        else:
            parts.append(f"{option.way} takes {option.host_bytes / GIB:.2f} GiB of host memory")
    allowed = []
    if limit is not None and any(not o.refused and o.device_bytes > limit for o in passed):
        allowed.append(f"{limit / GIB:.2f} GiB may be used")
    if host_limit is not None and any(not o.refused and o.host_bytes > host_limit for o in passed):
        allowed.append(f"{host_limit / GIB:.2f} GiB of host memory may be used")
    return ", ".join(parts) + "".join(f" and {part}" for part in allowed)
