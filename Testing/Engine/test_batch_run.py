"""Whole batches with real worker processes: what is made, what a failure costs, and what a kill leaves."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import batch_examples
import numpy as np
import psutil
import pytest
from batch_examples import manifest
from command_process import ERROR, ROOT, environment, labels, save

from SynthDiffusionLib.batch.run import run_batch
from SynthDiffusionLib.cli import build_parser, main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.runner import load_model, run

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 15  # so that a worker has something in hand when it is killed
place, small, in_process = batch_examples.place, batch_examples.small, batch_examples.in_process


@pytest.fixture
def one_thread(monkeypatch):
    """Voxels depend on the number of threads; the workers here are given one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(place: Path, *arguments: object) -> list[str]:
    model = place / "models" / "tiny-ct"
    return [sys.executable, "-m", "SynthDiffusionLib", "batch", "--model", str(model), *map(str, arguments)]


def call(place: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(place, *arguments),
        cwd=place,
        env=environment(place),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def children_gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_a_batch_makes_what_generate_makes_although_a_worker_is_killed(small, tmp_path):
    events: list[dict] = []
    killed: list[int] = []

    def heard(event: dict) -> None:
        events.append(event)
        if not killed and event["event"] == "progress" and event["stage"] == "batch" and 0 < event["step"] < 6:
            children = psutil.Process().children()
            (victim, *_) = [child for child in children if "SynthDiffusionLib.batch.worker" in child.cmdline()]
            killed.append(victim.pid)
            victim.kill()

    result = run_batch(small(steps=STEPS), heard)
    assert result.complete and result.summary["there"] == 8
    assert killed and result.summary["this_run"]["workers_lost"] == 1
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 8
    rows = manifest(tmp_path / "out")
    assert len({row["key"] for row in rows}) == len({row["seed"] for row in rows}) == 8
    for row in rows:
        volume = tmp_path / "out" / row["volume"]
        assert hashlib.sha256(volume.read_bytes()).hexdigest() == row["sha256"]
        record = json.loads((tmp_path / "out" / row["provenance"]).read_text(encoding="utf-8"))
        assert record["settings"]["seed"] == int(row["seed"]) and record["case"] == row["case"]
        assert record["output_sha256"] == row["sha256"]
        assert f"denoiser.safetensors {record['model']['files']['denoiser.safetensors']}" in row["weights_sha256"]
    row = rows[3]
    beside = (tmp_path / "out" / row["volume"]).with_name("item.json").read_text(encoding="utf-8")
    assert row["case"] in beside and row["segmentation"] not in beside, "the name of an input file lies with the volume"
    template = small().template
    source = next(s for s in small().sources if s.case == row["case"])
    alone = GenerateRequest(source.segmentation, template.model, tmp_path / "alone", device="cpu", steps=STEPS)
    (output,) = run(GenerateRequest(**{**vars(alone), "seed": int(row["seed"])})).outputs
    assert hashlib.sha256(output["volume"].read_bytes()).hexdigest() == row["sha256"], "generate makes another volume"
    last = [e for e in events if e["event"] == "progress" and e["stage"] == "batch"][-1]
    assert (last["step"], last["total"]) == (8, 8)
    assert not (tmp_path / "out" / "work").exists(), "something was left"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "8 of 8 volumes are there, of 4 cases" in page


def test_a_model_in_memory_makes_the_same_volumes_one_after_the_other(place, tmp_path):
    model, mask = str(place / "models" / "tiny-ct"), place / "masks" / "mäsk 1.nii.gz"
    loaded = load_model(model)
    sums: dict[bool, list[str]] = {}
    for is_loaded in (False, True):
        sums[is_loaded] = []
        for seed in (3, 4, 3):
            request = GenerateRequest(mask, model, tmp_path / str(is_loaded), seed=seed, steps=2, device="cpu")
            (output,) = run(request, loaded=loaded if is_loaded else None).outputs
            sums[is_loaded].append(hashlib.sha256(output["volume"].read_bytes()).hexdigest())
    assert sums[True] == sums[False] and sums[True][0] == sums[True][2] != sums[True][1]
    with pytest.raises(ValueError, match="is loaded"):
        run(GenerateRequest(mask, "lung-nodule-ct", tmp_path), loaded=loaded)


def test_a_broken_drawing_is_told_and_the_rest_is_made(place, tmp_path, capsys, in_process):
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    save(masks / "good.nii.gz", labels())
    (masks / "cut.nii.gz").write_bytes((masks / "good.nii.gz").read_bytes()[:90])
    save(masks / "empty.nii.gz", np.zeros((20, 20, 20), np.uint8))
    arguments = ["batch", str(masks), "--model", str(place / "models" / "tiny-ct"), "--out", str(out), "--steps", "2"]
    assert main([*arguments, "--json"]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["total"], summary["there"], summary["failed"], summary["left"]) == (3, 1, 2, 0)
    assert {f["case"]: f["attempts"] for f in summary["failures"]} == {"cut": 1, "empty": 1}
    reasons = {row["case"]: row["reason"] for row in manifest(out)}
    assert "truncated or damaged" in reasons["cut"] and reasons["empty"] and not reasons["good"]
    assert "truncated or damaged" in (out / "report.html").read_text(encoding="utf-8")
    save(masks / "cut.nii.gz", labels(block=slice(4, 7)))
    (masks / "empty.nii.gz").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert "2 of 2 volumes are there, 1 of them made now" in capsys.readouterr().err


def test_what_is_there_is_kept_and_what_was_changed_is_made_anew(small, tmp_path, in_process):
    out = tmp_path / "out"
    run_batch(small(samples=1))
    rows = manifest(out)
    times = [(out / row["volume"]).stat().st_mtime_ns for row in rows]
    again = run_batch(small(resume=True))
    assert again.summary["this_run"]["made"] == 4 and again.summary["there"] == 8
    fewer = run_batch(small(samples=1, resume=True))
    assert fewer.summary["total"] == 4
    assert any(note.startswith("4 further volumes of earlier lists lie in") for note in fewer.summary["notes"])
    assert [(out / row["volume"]).stat().st_mtime_ns for row in rows] == times
    changed = out / rows[0]["volume"]
    content = bytearray(changed.read_bytes())
    content[40] ^= 1
    changed.write_bytes(bytes(content))
    told: list[dict] = []
    assert run_batch(small(resume=True)).summary["this_run"]["made"] == 0, "sizes are the same"
    mended = run_batch(small(resume=True, verify=True), told.append)
    assert mended.complete and mended.summary["this_run"]["made"] == 1
    assert any("1 volumes were damaged" in e.get("message", "") for e in told)
    assert hashlib.sha256(changed.read_bytes()).hexdigest() == rows[0]["sha256"]


def test_shards_make_the_whole_and_a_run_without_shard_collects_them(small, tmp_path, in_process):
    out = tmp_path / "out"
    counts = []
    for number in (1, 2, 3):
        result = run_batch(small(shard=(number, 3)))  # without --resume: the others have begun it
        counts.append(result.summary["total"])
        assert len(manifest(out, f"manifest-{number}-of-3.csv")) == counts[-1]
    assert sum(counts) == 8
    whole = run_batch(small(resume=True))
    assert whole.complete and whole.summary["this_run"]["made"] == 0 and len(manifest(out)) == 8


def begun(place: Path, out: Path) -> tuple[subprocess.Popen, list[int]]:
    """A driver that has made a volume or more, and the processes of its workers."""
    driver = subprocess.Popen(
        command(place, place / "masks", "--out", out, "--samples", 4, "--steps", 20, "--threads", 1, "--workers", 2),
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    while not list(out.glob("volumes/*/*/item.json")):
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.05)
    return driver, [p.pid for p in psutil.Process(driver.pid).children(recursive=True)]


def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on(place, tmp_path):
    out = tmp_path / "out"
    driver, workers = begun(place, out)
    refused = call(place, place / "masks", "--out", out, "--samples", 4, "--steps", 20, "--resume")
    assert refused.returncode == 2 and f"{ERROR}Another command is at work in '{out}'" in refused.stderr
    driver.kill()
    driver.wait()
    assert workers and children_gone(workers)
    before = len(list(out.glob("volumes/*/*/item.json")))
    done = call(place, place / "masks", "--out", out, "--samples", 4, "--steps", 20, "--threads", 1, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"16 of 16 volumes are there, {16 - before} of them made now" in done.stderr
    assert len(list(out.rglob("*.nii.gz"))) == 16 and not (out / "work").exists()


def test_an_interrupted_batch_ends_soon_with_its_report(place, tmp_path):
    out = tmp_path / "out"
    driver, workers = begun(place, out)
    began = time.monotonic()
    driver.terminate()
    text, _ = driver.communicate(timeout=60)
    assert time.monotonic() - began < 20 and driver.returncode == 130, text
    assert text.rstrip().endswith("synthdiffusion: error: Cancelled") and children_gone(workers)
    rows = manifest(out)
    assert len(rows) == 16 and {row["status"] for row in rows} == {"done", "left"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["masks", "--sampler", "dpm"], "Unknown sampler"),
        (["masks", "--shard", "4/3"], "'4/3' is no shard"),
        (["masks", "--retries", "-1"], "-1 retries"),
        (["masks", "--workers", "0"], "0 workers"),
        (["masks", "--verify"], "without --resume"),
        (["masks", "--mode", "inpaint"], "real volume"),
        (["pairs.csv"], "'b' has an image, but the mode is 'whole'"),
        (["masks", "--samples", "0"], "0 samples"),
        (["masks", "--seed", "-1"], "The seed -1 is out of range"),
        (["masks", "nowhere"], "'nowhere' does not exist"),
        ([], "has no mode 'unconditional'"),
        (["masks", "--ray", "ray://host:10001"], "is no address of a Ray cluster"),
        (["masks", "--ray", "127.0.0.1:9"], "No Ray cluster answers at '127.0.0.1:9'"),
    ],
)
def test_what_no_volume_could_be_made_of_is_refused_at_once(place, tmp_path, arguments, text):
    if "--ray" in arguments:
        pytest.importorskip("ray")
    pair = "segmentation,image,case\n{0},,a\n{0},{0},b\n".format(place / "masks" / "mäsk 0.nii.gz")
    (place / "pairs.csv").write_text(pair, encoding="utf-8")
    done = call(place, *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2 and text in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_file_whose_name_is_no_text_is_one_failure(tmp_path, small, in_process):
    masks = tmp_path / "masks"
    masks.mkdir()
    save(masks / "good.nii.gz", labels())
    try:
        (masks / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system has no such names")
    result = run_batch(small(masks=masks, samples=1))
    assert (result.summary["there"], result.summary["failed"]) == (1, 1)
    assert {row["status"]: row["segmentation"] for row in manifest(tmp_path / "out")} == {
        "done": "good.nii.gz",
        "failed": r"M\udcfcller.nii.gz",
    }


def test_a_drawing_that_is_not_there_has_no_checksum(tmp_path, small, place, in_process):
    masks = tmp_path / "masks"
    masks.mkdir()
    save(masks / "good.nii.gz", labels())
    (masks / "link.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    result = run_batch(small(masks=masks, samples=1))
    assert (result.summary["there"], result.summary["failed"]) == (1, 1)
    (row,) = [row for row in manifest(tmp_path / "out") if row["status"] == "failed"]
    assert row["case"] == "link" and row["segmentation_sha256"] == "" and "cannot be read" in row["reason"]


def test_a_folder_that_is_not_the_batch_any_more_gets_nothing(tmp_path, small, in_process, monkeypatch):
    monkeypatch.setattr(batch_examples.InProcess, "put_aside", lambda self, worker: self.gone.append(worker))
    monkeypatch.setattr(batch_examples.InProcess, "gone", [], raising=False)
    monkeypatch.setattr(batch_examples.InProcess, "alive", lambda self: 1 - len(self.gone))
    monkeypatch.setattr(batch_examples.InProcess, "free", lambda self: [] if self._news or self.gone else ["1"])
    out = tmp_path / "out"

    def unmount(event: dict) -> None:
        third = event["event"] == "progress" and event["stage"] == "batch" and event["step"] == 3
        if third and not (tmp_path / "unmounted").exists():
            out.rename(tmp_path / "unmounted")
            out.mkdir()

    with pytest.raises(BadInput, match=r"batch\.json"):
        run_batch(small(scratch=tmp_path / "scratch"), unmount)
    assert not out.exists() or not list(out.iterdir())
    assert len(list((tmp_path / "unmounted").rglob("*.nii.gz"))) == 3


def test_a_worker_that_cannot_write_is_put_aside_and_nothing_is_failed(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("OWN_DISK", str(tmp_path / "file"))
    result = run_batch(small(scratch=Path("$OWN_DISK/scratch"), samples=1))
    assert (result.summary["there"], result.summary["failed"], result.summary["left"]) == (0, 0, 4)
    assert len(result.summary["this_run"]["workers_put_aside"]) == 2
    monkeypatch.setenv("OWN_DISK", str(tmp_path / "disk"))
    again = run_batch(small(scratch=Path("$OWN_DISK/scratch"), samples=1, workers=1, resume=True))
    assert again.complete and not list((tmp_path / "disk" / "scratch").iterdir())


def test_a_drawing_that_changes_under_way_is_not_passed_off_as_the_one_in_the_list(tmp_path, small, in_process):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(6):
        save(masks / f"{number}.nii.gz", labels(block=slice(3 + number, 8 + number)))

    def change(event: dict) -> None:
        if event["event"] == "progress" and event["stage"] == "batch" and event["step"] == 0:
            with suppress(OSError):
                save(masks / "5.nii.gz", labels(block=slice(2, 4)))

    result = run_batch(small(masks=masks, samples=1, workers=1), change)
    (failure,) = result.summary["failures"]
    assert failure["case"] == "5" and "has been changed since the batch began" in failure["message"]


def test_the_volumes_of_a_batch_are_a_set_for_evaluations_and_exports(small, tmp_path, in_process):
    from SynthDiffusionLib.evaluation.sets.image_set import volume_files

    run_batch(small())
    files, odd = volume_files(tmp_path / "out", "synthetic")
    assert len(files) == 8 and not odd
    assert list(files) == sorted(files)


def test_the_library_is_found_from_any_working_directory(place, tmp_path):
    """Modules that lie in the working directory are not those of the workers."""
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')\n")
    own = environment(place) | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command(place, place / "masks" / "mäsk 0.nii.gz", "--out", tmp_path / "out", "--steps", 2),
        cwd=tmp_path,
        env=own,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_for_slurm_gives_each_job_its_shard(tmp_path):
    script = ROOT / "Docs" / "Examples" / "slurm_batch.sh"
    tool = tmp_path / "bin" / "synthdiffusion"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tool.chmod(0o755)

    def parsed(*arguments: str, **variables: str) -> argparse.Namespace:
        own = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}", **variables}
        done = subprocess.run(
            ["bash", str(script), *arguments], env=own, capture_output=True, encoding="utf-8", timeout=60, check=True
        )
        return build_parser().parse_args(done.stdout.splitlines())

    one = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}  # the same, when one of 16 is sent again
    job = parsed("a b", "lung-nodule-ct", "out", "10", "16", "--", "--steps", "7", TMPDIR="/local disk", **one)
    assert (job.shard, job.resume, job.samples, job.workers, job.steps) == ((7, 16), True, 10, 1, 7)
    with pytest.raises(subprocess.CalledProcessError):
        parsed("a b", "lung-nodule-ct", "out", "10", **one)
    assert (job.segmentations, job.out, job.scratch) == ([Path("a b")], Path("out"), Path("/local disk"))
    whole = parsed("a b", "lung-nodule-ct", "out")
    assert (whole.shard, whole.scratch, whole.samples) == ((1, 1), None, 1)
