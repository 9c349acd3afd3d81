"""What a user may set beside the drawing, for the models that take it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Controls:
    """Settings that some models take and others do not (`ControlsSpec` says which).

    Args:
        condition_scale: how strongly the drawing's branch acts on the denoiser; 1 is as trained, 0 ignores the drawing.
        region: body regions at the top and at the bottom of the volume, as in ("chest", "abdomen"); None: from what is
            drawn.
        modality: which kind of image, a name in `ControlsSpec.modalities`; None: the model's first.
    """

    condition_scale: float = 1.0
    region: tuple[str, str] | None = None
    modality: str | None = None


DEFAULT_CONTROLS = Controls()
