"""The generative methods, one module each, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS, Controls
from SynthDiffusionLib.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from SynthDiffusionLib.backends.patch_ddpm import KnownImage
    from SynthDiffusionLib.labels.condition import Condition
    from SynthDiffusionLib.memory.plan import Plan
    from SynthDiffusionLib.models import ModelPackage

BACKENDS = ("patch_ddpm", "medlord", "med_lsdm", "slice_ldm", "maisi")

# Is called after a step with a function that gives the volume as the step estimates it; one that nobody wants costs
# nothing.
OnEstimate = Callable[[Callable[[], "np.ndarray"]], None]

# Is called between two pieces of a stage's work with its name (of `memory.execution`, or `ESTIMATE`) and the fraction
# of it that is done; what it raises, such as `Cancelled`, ends the work there.
OnPart = Callable[[str, float], None]
ESTIMATE = "estimate"  # the decoding of an estimate, during denoising


def nothing_told(stage: str, fraction: float) -> None:
    """The default: nobody listens."""


class Backend(Protocol):
    """A trained model that draws volumes from conditions; `patch_ddpm.PatchDDPM` documents the arguments."""

    weight_bytes: int

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]: ...

    def sample(
        self,
        condition: Condition,
        plan: Plan,
        *,
        sampler: str,
        steps: int,
        seed: int,
        guidance: float = 1.0,
        known: KnownImage | None = None,
        controls: Controls = DEFAULT_CONTROLS,
        on_step: Callable[[int, int], None] = ...,
        on_estimate: OnEstimate | None = None,
        on_part: OnPart = ...,
    ) -> np.ndarray: ...


def load_backend(package: ModelPackage) -> Backend:
    """The backend of a package with its weights loaded on the CPU.

    Raises:
        ModelError: the package's backend is not part of this version, its weights do not fit, or no memory holds them.
    """
    spec = package.spec
    if spec.backend == "patch_ddpm":
        from SynthDiffusionLib.backends.patch_ddpm import PatchDDPM
        from SynthDiffusionLib.networks.build import check_size
        from SynthDiffusionLib.sampling.schedule import DiffusionSpec

        diffusion = DiffusionSpec(**spec.raw["diffusion"])
        check_size(spec.network, spec.label_scheme)
        return PatchDDPM(spec.network.parameters, diffusion, spec.label_scheme, package.file("denoiser"))
    if spec.backend == "medlord":
        from SynthDiffusionLib.backends.medlord import MedLoRD

        return MedLoRD(package)
    if spec.backend == "med_lsdm":
        from SynthDiffusionLib.backends.med_lsdm import MedLSDM

        return MedLSDM(package)
    if spec.backend == "slice_ldm":
        from SynthDiffusionLib.backends.slice_ldm import SliceLDM

        return SliceLDM(package)
    if spec.backend == "maisi":
        from SynthDiffusionLib.backends.maisi import Maisi

        return Maisi(package)
    raise ModelError(
        f"The model '{spec.id}' needs the backend '{spec.backend}', which this version does not have",
        f"It has: {', '.join(BACKENDS)}. Install a newer version of SynthDiffusion.",
    )
