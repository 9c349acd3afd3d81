"""A job whose stages are computed in other ways: the same volume, told in its record, cancelled in the middle of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_latent import make_latent_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput, Cancelled
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.command_line import command_line
from SynthDiffusionLib.jobs.events import Progress
from SynthDiffusionLib.jobs.preflight import Device, preflight
from SynthDiffusionLib.networks import streaming
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

STRATEGIES = {"denoise": "offload", "decode": "stream-recompute"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_latent_package(tmp_path_factory.mktemp("models") / "tiny-limb").folder)


@pytest.fixture
def drawing(tmp_path) -> Path:
    classes = np.zeros((16, 24, 16), np.uint8)
    classes[4:12, 4:14, 2:10] = 3
    write_volume(Volume(classes, np.diag([-2.0, -2.0, 3.0, 1.0]), "label"), tmp_path / "drawn.nii.gz")
    return tmp_path / "drawn.nii.gz"


@pytest.fixture
def request_for(model, drawing, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SLAB_BYTES_ON_CPU", 5_000)

    def make(out: str, **changes: Any) -> GenerateRequest:
        settings = {"seed": 3, "device": "cpu", "precision": "fp32", "labels": {"3": "tumour"}, "steps": 2}
        return GenerateRequest(segmentation=drawing, model=model, out=tmp_path / out, **settings | changes)

    return make


def test_the_volume_is_the_same_and_its_record_says_how_it_was_made(request_for, drawing, tmp_path, capsys):
    usual = run(request_for("usual")).outputs[0]
    events: list[dict] = []
    made = run(request_for("made", strategies=STRATEGIES), events.append).outputs[0]
    expected, found = read_volume(usual["volume"]).array, read_volume(made["volume"]).array
    assert expected.std() > 1.0
    assert np.abs(found.astype(int) - expected).max() <= 1  # rounded to whole HU

    plans = [json.loads(o["provenance"].read_text(encoding="utf-8"))["plan"] for o in (usual, made)]
    assert (plans[0]["strategy"], plans[0]["execution"]) == ("whole", {})
    assert (plans[1]["strategy"], plans[1]["execution"]) == ("stream-recompute", STRATEGIES)

    decoding = [e for e in events if e.get("stage") == "decode"]
    percents = [e["step"] for e in decoding]
    assert percents == sorted(set(percents)) and percents[0] == 0 and percents[-1] == 100 and len(percents) > 10
    assert all(e["total"] == 100 for e in decoding) and any(e.get("eta_s", -1) >= 0 for e in decoding)
    order = list(dict.fromkeys(e["stage"] for e in events if e["event"] == "progress"))
    assert order == ["read", "model", "denoise", "decode", "write"]

    record = json.loads(made["provenance"].read_text(encoding="utf-8"))
    arguments = command_line(record | {"model": {"id": request_for("x").model}}, drawing, tmp_path / "again")
    assert arguments[arguments.index("--strategy") + 1] == "denoise=offload,decode=stream-recompute"
    assert cli.main(arguments[1:]) == 0, capsys.readouterr().err
    assert np.array_equal(read_volume(next((tmp_path / "again").glob("*.nii.gz"))).array, found)


def test_a_job_ends_in_the_middle_of_a_slab(request_for, tmp_path):
    events: list[dict] = []

    def half_way() -> bool:
        return any(e.get("stage") == "decode" and e["step"] >= 30 for e in events)

    with pytest.raises(Cancelled):
        run(request_for("out", strategies={"decode": "stream"}), events.append, should_cancel=half_way)
    assert 30 <= events[-1]["step"] < 60 and events[-1]["stage"] == "decode"
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_request_keeps_it_and_refuses_what_there_is_not(request_for):
    asked = request_for("out", strategies=STRATEGIES)
    assert GenerateRequest.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    with pytest.raises(BadInput, match="'decode' cannot be computed as 'tiles'"):
        request_for("out", strategies={"decode": "tiles"})
    with pytest.raises(BadInput, match="no stage 'decoder'"):
        request_for("out", strategies={"decoder": "stream"})
    assert preflight(asked, Device("cpu", "a CPU", 2**40, "fp32"))["strategy"] == "stream-recompute"
    assert preflight(request_for("out"), Device("cpu", "a CPU", 2**40, "fp32"))["strategy"] == "whole"


def test_strategies_on_the_command_line_are_checked(request_for, drawing, capsys):
    asked = request_for("out")
    common = ["generate", str(drawing), "--model", asked.model, "--out", str(asked.out), "--strategy"]
    with pytest.raises(SystemExit) as refused:
        cli.main([*common, "decode"])
    assert refused.value.code == 2 and "is no strategy" in capsys.readouterr().err
    assert cli.main([*common, "decode=tiles"]) == 2
    assert "cannot be computed as 'tiles'" in capsys.readouterr().err


def test_a_precision_that_the_device_lacks_is_told(request_for, monkeypatch):
    """A CPU without fp16 refuses it; a GPU without bf16 takes fp16, which the record and a warning say."""
    from SynthDiffusionLib.memory import plan

    def without(name: str, device: str) -> str:
        return "fp32" if name == "bf16" else name

    monkeypatch.setattr(plan, "resolve_precision", without)
    events: list[dict] = []
    result = run(request_for("out", precision="bf16"), events.append)
    (said,) = [e["message"] for e in events if e["event"] == "warning" and "takes its place" in e["message"]]
    assert said == "cpu does not compute in bf16: fp32 takes its place" and said in result.notes
    record = json.loads(result.outputs[0]["provenance"].read_text(encoding="utf-8"))
    assert record["plan"]["precision"] == "fp32" and said in record["notes"]


def test_progress_of_a_part_is_told_in_percent():
    events: list[dict] = []
    cancel = [False]
    progress = Progress(events.append, 1, [1.0], 2, lambda: cancel[0])
    for _ in range(2):
        with progress.sample():
            progress.step()
            for fraction in (0.0, 0.001, 0.5, 0.5, 0.509, 1.0):
                progress.part("decode", fraction)
    steps = [(e["stage"], e["step"], e["sample"]) for e in events]
    once = [("denoise", None), ("decode", 0), ("decode", 50), ("decode", 100)]
    assert steps == [(s, n if n is not None else sample, sample) for sample in (1, 2) for s, n in once]
    assert "eta_s" in events[2] and "eta_s" not in events[1]
    cancel[0] = True
    told = len(events)
    with pytest.raises(Cancelled):
        progress.part("estimate", 0.5)
    assert len(events) == told
