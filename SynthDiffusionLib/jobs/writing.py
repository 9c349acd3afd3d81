"""The files of one sample: volume, region, provenance, contact sheet and scene."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.contact_sheet import write_contact_sheet
from SynthDiffusionLib.errors import RunFailed
from SynthDiffusionLib.jobs import provenance
from SynthDiffusionLib.jobs.inputs import Inputs
from SynthDiffusionLib.jobs.outputs import display_of, header_marks, kind_of, limits_of
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.synthesis import Resolved, Result
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes import Segment, Segmentation, write_segmentation, write_volume
from SynthDiffusionLib.volumes.atomic import files_together
from SynthDiffusionLib.volumes.digests import mask_sha256, voxel_edges_mm, voxels_sha256


def make_record(
    request: GenerateRequest, resolved: Resolved, spec: ModelSpec, inputs: Inputs, notes: list[str]
) -> dict[str, Any]:
    """The provenance of a sample, but for what is known when it is made.

    Args:
        resolved: settings, with the sample's seed.
        notes: sentences about what was done, without those of the inputs.
    """
    inpainted = request.mode == "inpaint"
    again = inputs.source is not None and inputs.source["image_synthetic"]
    inpainted_notice = provenance.NOTICE_INPAINTED_AGAIN if again else provenance.NOTICE_INPAINTED
    return {
        "format": provenance.FORMAT,
        "synthetic": True,
        "contains_real_patient_pixels": inpainted,
        "notice": inpainted_notice if inpainted else provenance.NOTICE,
        "software": provenance.software(),
        "case": inputs.case,
        "model": {
            "id": spec.id,
            "version": spec.version,
            "modality": spec.modality,
            "body_part": spec.body_part,
            "license": spec.license.spdx,
            "files": {f.path: f.sha256 for f in spec.files if f.role not in ("card", "figure")},
        },
        "inputs": inputs.checksums,
        **({"source": inputs.source} if inputs.source is not None else {}),
        "mapping": inputs.mapping.report.as_dict(),
        "given_classes": list(inputs.mapping.given),
        "settings": {
            "mode": request.mode,
            "sampler": resolved.sampler,
            "steps": resolved.steps,
            "seed": resolved.seed,
            "guidance": resolved.guidance,
        }
        | ({"inpaint_method": request.inpaint_method, "margin_mm": resolved.margin_mm} if inpainted else {})
        | ({"crop": True} if request.crop else {})
        | _grid_and_controls(request, resolved)
        | ({"tumour": resolved.tumour.to_json()} if resolved.tumour is not None else {}),
        "plan": resolved.plan.to_json(),
        "notes": [*inputs.notes, *notes],
        "display": display_of(spec),
    }


def _grid_and_controls(request: GenerateRequest, resolved: Resolved) -> dict[str, Any]:
    """What only some models take; left out where nothing was set."""
    controls = resolved.controls
    settings = {
        "size": list(request.size) if isinstance(request.size, tuple) else request.size,
        "spacing_mm": list(request.spacing_mm) if request.spacing_mm is not None else None,
        "condition_scale": controls.condition_scale if request.condition_scale is not None else None,
        "region": list(controls.region) if controls.region is not None else None,
        "modality": controls.modality,
    }
    return {name: value for name, value in settings.items() if value is not None}


def write_sample(
    result: Result,
    record: dict[str, Any],
    paths: dict[str, Path],
    inputs: Inputs,
    spec: ModelSpec,
    on_stage: Callable[[str], None],
) -> dict[str, Path]:
    """Writes a sample; its files get their names together, the scene last.

    Args:
        record: provenance, see `make_record`; gets the checksums of the volume and of the masks written with it.
        paths: see `outputs.output_paths`.
        inputs: of the job.
        on_stage: is told "write" and "scene".

    Returns:
        the paths that were written.

    Raises:
        BadInput, RunFailed: a file or the scene could not be written.
    """
    on_stage("write")
    inpainted = result.changed is not None
    volume = replace(result.volume, metadata=header_marks(record))
    paths = dict(paths)
    scene = paths.pop("scene", None)
    with files_together(paths) as staged:
        write_volume(volume, staged["volume"])
        if inpainted:
            segment = Segment("synthetic region", 1, color=(0.2, 0.8, 0.9))
            layer = result.changed.astype(np.uint8)
            write_segmentation(Segmentation((layer,), volume.affine, (segment,)), staged["region"])
            record["masks"] = {"region_sha256": mask_sha256(layer, volume.affine)}
        if result.segmented:
            write_segmentation(_made_segmentation(result, spec), staged["segmentation"], volume.metadata)
            record["masks"] = {"segmentation_sha256": mask_sha256(result.class_map, volume.affine)}
        record["output_sha256"] = provenance.sha256_of(staged["volume"])
        record["output_voxels_sha256"] = voxels_sha256(volume)
        record["output_voxel_edges_mm"] = voxel_edges_mm(volume)
        provenance.write_json(staged["provenance"], record)
        write_contact_sheet(
            staged["contact_sheet"],
            volume,
            result.class_map,
            spec.label_scheme,
            spec.target_class,
            limits=limits_of(record["display"]),
            before=inputs.image if inpainted else None,
            changed=result.changed,
            drawn="mask" if result.segmented else "drawing",
            notice=f"{kind_of(record)}. {record['notice']}",
        )
    if scene is not None:
        on_stage("scene")
        paths["scene"] = _write_scene(scene, record, paths, inputs)
    return paths


def _made_segmentation(result: Result, spec: ModelSpec) -> Segmentation:
    """What the joint mode has drawn, named and coded as in the model's label scheme; there even if it is empty."""
    label = spec.label_scheme[spec.characteristics.target]
    segment = Segment(
        label.name,
        label.value,
        category=label.category,
        type=label.codes[0] if label.codes else None,
        region=label.region,
        color=label.color,
    )
    return Segmentation((result.class_map,), result.volume.affine, (segment,))


def _write_scene(target: Path, record: dict[str, Any], paths: dict[str, Path], inputs: Inputs) -> Path:
    """The scene holds the synthetic volume, the segmentation, drawn or made, and when inpainting the real volume.

    The folder of the child process is kept when it fails, since its log is there; the images in it are not.
    """
    from SynthDiffusionLib.jobs.scene_export import write_scene

    job = Path(tempfile.mkdtemp(prefix="synthdiffusion-scene-"))
    drawings = []
    if inputs.segmentation is not None:
        write_segmentation(inputs.segmentation, job / "segmentation.seg.nrrd")
        drawings.append({"path": str(job / "segmentation.seg.nrrd"), "name": inputs.case})
    if record.get("measured") is not None:  # a scene cannot hold the segmentation of a joint sample if it is empty
        drawings.append({"path": str(paths["segmentation"].resolve()), "name": f"{inputs.case} synthetic segmentation"})
    role = "inpainted" if inputs.image is not None else "synthetic"
    seed, model = record["settings"]["seed"], record["model"]["id"]
    volumes = [
        {
            "path": str(paths["volume"].resolve()),
            "name": f"{inputs.case} {role} ({model}, seed {seed})",
            "provenance": record,
            "role": role,
        }
    ]
    if inputs.image is not None:
        write_volume(replace(inputs.image, metadata={}), job / "real.nrrd")
        volumes.append({"path": str(job / "real.nrrd"), "name": f"{inputs.case} real", "role": "real"})
    scene = {"output": str(target.resolve()), "volumes": volumes, "segmentations": drawings}
    try:
        write_scene(job, scene)
    except RunFailed:
        for copy in job.glob("*.nrrd"):
            copy.unlink(missing_ok=True)
        raise
    except BaseException:
        shutil.rmtree(job, ignore_errors=True)
        raise
    shutil.rmtree(job, ignore_errors=True)
    return target
