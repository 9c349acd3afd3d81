"""Numbers and states in words, for all panels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from slicer.i18n import tr as _

from SynthDiffusionJobs import RunQueue
from SynthDiffusionPanels.tumourTexts import engineWords

GIB = 1024**3


def durationText(seconds: float) -> str:
    """ "8 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return _("{n} s").format(n=max(1, round(seconds)))
    minutes = round(seconds / 60)
    if minutes < 60:
        return _("{n} min").format(n=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def memoryText(bytes_: float) -> str:
    """ "0.7 GB", "21 GB": in units of 1024^3 bytes, as graphics cards are sold."""
    size = bytes_ / GIB
    return _("{n:.1f} GB").format(n=size) if size < 10 else _("{n:.0f} GB").format(n=size)


def bytesText(bytes_: float) -> str:
    """ "850 kB", "3 MB", "1.8 GB": in powers of ten, as file managers and web pages count downloads."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if bytes_ >= size:
            n = bytes_ / size
            return f"{n:.1f} {unit}" if n < 10 and unit == "GB" else f"{n:.0f} {unit}"
    return f"{bytes_ / 1e3:.0f} kB"


def stageText(run: RunQueue.Run) -> str:
    """What the run under way is doing, and how long it still takes."""
    if run.stage == "denoise" and run.total:
        text = _("Making the image, step {step} of {total}").format(step=run.step, total=run.total)
        if run.etaSeconds is not None:
            text += _(", about {time} left").format(time=durationText(run.etaSeconds))
        return text + "."
    if run.stage == "decode" and run.step and run.etaSeconds is not None:
        text = _("Decoding the image, {percent} %, about {time} left.")
        return text.format(percent=100 * run.step // max(1, run.total), time=durationText(run.etaSeconds))
    stages = {
        "": _("Starting."),
        "read": _("Reading the segmentation."),
        "model": _("Loading the model."),
        "denoise": _("Making the image."),
        "decode": _("Decoding the image."),
        "write": _("Writing the files."),
        "adherence": _("Comparing the image with the drawing."),
        "scene": _("Writing the scene."),
    }
    return stages.get(run.stage, _("Working."))


def stateText(run: RunQueue.Run) -> str:
    """The state of a run in a word or two."""
    return {
        RunQueue.WAITING: _("waiting"),
        RunQueue.RUNNING: _("running"),
        RunQueue.DONE: _("done in {time}").format(time=durationText(run.seconds)),
        RunQueue.FAILED: _("failed"),
        RunQueue.CANCELLED: _("canceled"),
    }[run.state]


def estimateText(answer: Mapping) -> str:
    """One line on what a run would take, from the answer of `jobs.preflight`."""
    if answer["seconds"] is None:
        time = _("Time: not known yet")
    elif answer["seconds_from"] == "calibration":
        # What comes after the image, such as writing, has not been measured then.
        time = _("At least {time} (from the measured speed)").format(time=durationText(answer["seconds"]))
    else:
        time = _("About {time} (from past runs)").format(time=durationText(answer["seconds"]))
    memory = _("about {needed}").format(needed=memoryText(answer["predicted_bytes"]))
    if answer.get("free_bytes") is not None:
        memory += _(" of {free} free memory").format(free=memoryText(answer["free_bytes"]))
    strategies = {
        "whole": _("all at once"),
        "offload": _("one network after the other"),
        "stream": _("decoded slab by slab"),
        "stream-recompute": _("decoded slab by slab, with little memory"),
        "stream-host": _("decoded slab by slab, through the main memory"),
        "chunk": _("slab by slab"),
        "precision": _("at lower precision"),
    }
    return f"{time}, {memory}, {strategies.get(answer['strategy'], answer['strategy'])}."


def plainText(text: str) -> str:
    """A text for a tooltip or a message box, which Qt would take for markup where a name has "<" in it."""
    return "<qt>{}</qt>".format(escape(text).replace("\n", "<br>")) if "<" in text else text


def failureText(message: str, hint: str) -> str:
    """Cause and mend as one text, in the words of the panel."""
    return panelWords(f"{message.rstrip('.')}. {hint}".strip() if hint else message)


def panelWords(text: str) -> str:
    """A message of the engine, in which options of the command line are called as the panel calls them."""
    options = (
        (
            r"--image and --mode inpaint|--mode inpaint --image( REAL_VOLUME)?|--mode inpaint",
            _("'Into the real volume'"),
        ),
        (r"--image( REAL_VOLUME)?", _("the real volume")),
        (r"--size nearest", _("'Use the nearest size'")),
        (r"--size", _("'Size'")),
        (r"--spacing", _("'Voxels' (mm)")),
        (r"--condition-scale", _("'How strongly to follow the drawing' under Advanced")),
        (r"--region was given", _("A region was given")),
        (r"Leave --region out", _("Leave the region out")),
        (r"--region", _("'Part of the body' under Advanced")),
        (r"--modality", _("'Kind of image' under Advanced")),
        (r"--mode unconditional", _("'Without a drawing'")),
        (r"It belongs to --mode joint", _("It belongs to 'Image and segmentation'")),
        (r"--mode joint", _("'Image and segmentation'")),
        (
            r"Change these values of --tumour, or leave some( of them)? out( to have them drawn)?",
            _("Change these values under Model and quality, or check 'As in the training patients' for some of them"),
        ),
        (r"Leave it out, and say with --tumour what the tumour is to be like", _("Set what it is to be like")),
        (r"Leave it out to have all drawn, or give it as in --tumour \S+", _("Check 'As in the training patients'")),
        (r"Give it as in --tumour \S+?(?=\.?$|\. )", _("Set it under Model and quality")),
        (r"other values of --tumour", _("another size, shape or place")),
        (r"--tumour", _("what the tumour is to be like")),
        (r"leave --mode out", _("choose 'A whole new volume'")),
        (r"--accept-licen[cs]e", _("'Accept'")),
        (r", or the environment variable HF_TOKEN", ""),
        (r"--token-file( [A-Z]+)?", _("'Choose a token file...'")),
        (r"--from( [A-Z_]+)? or models import", _("'From a folder...' or 'Import...'")),
        (r"--from( [A-Z_]+)?", _("'From a folder...'")),
        (r"--crop", _("'Cut to fit the model'")),
        (r"--vram-limit", _("'Memory limit' under Advanced")),
        (r"--precision (?=fp|bf)", _("'Precision' under Advanced: ")),
        (r"--precision", _("'Precision' under Advanced")),
        (r"--device (?=c)", _("'Device' under Advanced: ")),
        (r"--device", _("'Device' under Advanced")),
        (r"--margin", _("'Rim' under Advanced")),
        (r"--guidance", _("'Guidance' under Advanced")),
        (r"--steps", _("'Steps' under Advanced")),
        (r"--samples", _("'Number of images'")),
        (r"--seed", _("'Fixed number'")),
        (r"--inpaint-method|--sampler", _("'Sampler' under Advanced")),
        (r"give --labels", _("choose classes in the table")),
        (r"--labels", _("the classes in the table")),
        (r" by --like ID", ""),
        (r"--like( [A-Z_]+)?", _("'Made like'")),
        (r"--as( [A-Z_]+)?", _("'Short name'")),
        (r"--case", _("'Case name' under Advanced")),
        (r"choose another --out or --subject", _("choose another folder")),
        (r"--subject", _("The name of the subject")),
        (r"Leave --label out", _("Choose 'none' as the label")),
        (r" Give the record with --provenance\.", ""),
        (r"--out", _("folder")),
        (
            r"(: )?synthdiffusion models \w+( --available)?( [A-Z_]+)*(, and models install [A-Z_]+)?",
            _(" (section Model and quality)"),
        ),
    )
    for pattern, words in options:
        text = re.sub(pattern, words, text)
    return engineWords(text)
