"""Arms that the generator makes: one synthetic volume for each segmentation, through `jobs.run` as everybody's are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from SynthDiffusionLib.errors import Cancelled
from SynthDiffusionLib.reader_study.design import Design
from SynthDiffusionLib.reader_study.design_cases import Arm, StudyCase
from SynthDiffusionLib.volumes import read_segmentation

_PASSED_ON = ("sampler", "steps", "guidance", "condition_scale", "device", "precision", "crop")


def with_generated(
    design: Design,
    folder: Path,
    *,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    should_cancel: Callable[[], bool] = lambda: False,
    run: Callable[..., Any] | None = None,
) -> Design:
    """Makes the volumes of arms with `generate`.

    Case n of an arm gets the seed `generate.seed` (default: the study's) + n, so that no two share their noise.

    Args:
        design: read and checked.
        folder: the volumes go into a folder of it for each arm.
        on_event: receives the generator's events, and one before each volume.
        should_cancel: asked before each volume, and by the generator after each step.
        run: what carries a request out; `jobs.run` when None.

    Returns:
        the design, with an image for every case.

    Raises:
        Cancelled: it was asked for.
        SynthDiffusionError: as `jobs.run`.
    """
    wanted = [c for c in design.cases if c.segmentation is not None]
    if not wanted:
        return design
    if run is None:
        from SynthDiffusionLib.jobs import run
    made: list[StudyCase] = []
    numbers: dict[str, int] = {}
    for case in design.cases:
        if case.segmentation is None:
            made.append(case)
            continue
        if should_cancel():
            raise Cancelled()
        on_event({"event": "progress", "stage": f"generate: {case.arm}", "step": sum(numbers.values()),
                  "total": len(wanted)})  # fmt: skip
        number = numbers.get(case.arm, 0)
        numbers[case.arm] = number + 1
        arm = design.arm(case.arm)
        seed = int((arm.generate or {}).get("seed", design.seed)) + number
        request = _request(case, arm, folder / case.arm, seed)
        output = run(request, _inner(on_event), should_cancel).outputs[0]
        made.append(replace(case, image=Path(output["volume"])))
    return replace(design, cases=tuple(made))


def _request(case: StudyCase, arm: Arm, out: Path, seed: int) -> Any:
    from SynthDiffusionLib.jobs.request import GenerateRequest

    generate: Mapping[str, Any] = arm.generate or {}
    segmentation = cast(Path, case.segmentation)
    options = {k: generate[k] for k in _PASSED_ON if k in generate}
    if "classes" in generate:
        options["classes"] = tuple(generate["classes"])
    if "labels" in generate:
        # One map serves all masks of the arm; a mask need not hold every structure.
        segments = read_segmentation(segmentation).segments
        names = {s.name for s in segments} | {str(s.value) for s in segments}
        options["labels"] = {k: v for k, v in generate["labels"].items() if k in names}
    return GenerateRequest(
        segmentation=segmentation, model=generate["model"], out=out, seed=seed, case=case.pair, **options
    )


def _inner(on_event: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """The generator's events without its "done": the study is not done."""

    def passed_on(event: dict[str, Any]) -> None:
        if event.get("event") != "done":
            on_event(event)

    return passed_on
