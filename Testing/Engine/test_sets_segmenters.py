"""Segmenters that are programs: what each can do wrong, and that nothing of them stays. Small Python scripts stand for
them."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from command_process import write_program
from tiny_label_sets import AFFINE, FRAME, Thresholds, phantom_set

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.evaluation.sets import programs, segmenters
from SynthDiffusionLib.evaluation.sets.segmenters import SegmenterFailed, image_of, segment_images, segment_set
from SynthDiffusionLib.volumes import Volume

# Reads and writes NIfTI without the engine, as another program would.
HEAD = """import sys
import nibabel as nib
import numpy as np
image = nib.load(sys.argv[1])
voxels = np.asarray(image.dataobj)
labels = np.digitize(voxels, [0.0, 200.0]).astype(np.uint8)
def save(array, affine=image.affine):
    nib.save(nib.Nifti1Image(array, affine), sys.argv[2])
"""
IMAGE = phantom_set("real", 1).cases[0]


@pytest.fixture
def command(tmp_path):
    """Makes a segmenter of a script."""

    def make(body: str, values=(1, 2), timeout_s: float = 60.0, head: str = HEAD) -> programs.ProgramSegmenter:
        script = tmp_path / "my segmenter.py"
        script.write_text(head + body, encoding="utf-8")
        text = f'"{sys.executable}" "{script}" {{input}} {{output}}'
        return programs.command_segmenter(text, values, timeout_s)

    return make


def run(segmenter) -> np.ndarray:
    return segmenter(image_of(IMAGE.image, IMAGE.affine, FRAME), lambda event: None)[0]


def test_a_program_segments(command):
    assert np.array_equal(run(command("save(labels)")), IMAGE.labels)


def test_its_output_may_lie_in_another_orientation(command):
    flipped = "save(labels[::-1], image.affine @ np.array([[-1,0,0,labels.shape[0]-1],[0,1,0,0],[0,0,1,0],[0,0,0,1.]]))"
    assert np.array_equal(run(command(flipped)), IMAGE.labels)


def test_it_learns_no_name(command, tmp_path):
    run(command(f"open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv)); save(labels)"))
    seen = (tmp_path / "seen").read_text()
    assert IMAGE.name not in seen and seen.endswith("labels.nii.gz")


@pytest.mark.parametrize(
    "body, message",
    [
        ("print('no licence'); sys.exit(3)", "exit code 3; it said last: no licence"),
        ("raise RuntimeError('CUDA is gone')", "exit code 1.*CUDA is gone"),
        ("pass", "wrote no output file"),
        ("save(labels[:, :, :-1])", "another grid: 20 x 22 x 15 voxels"),
        ("save(labels, np.eye(4))", "another grid.*1 x 1 x 1 mm"),
        ("save((labels * 7).astype(np.uint8))", r"label values \[7, 14\], which no mask has; the masks have \[1, 2\]"),
        ("save(labels + 0.3)", "no label map"),
        ("save(-labels.astype(np.int16))", "no label map"),
        ("open(sys.argv[2], 'w').write('hello')", "no label map"),
        ("save(np.stack([labels, labels], -1))", "no label map"),
    ],
)
def test_what_a_program_can_do_wrong(command, body, message):
    with pytest.raises(SegmenterFailed, match=message):
        run(command(body))


def test_a_program_that_takes_too_long_is_ended_with_its_children(command, tmp_path):
    pid = tmp_path / "pid"
    body = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.raises(SegmenterFailed, match="longer than 1.5 s and was ended"):
        run(command(body, timeout_s=1.5, head=""))
    assert time.monotonic() - began < 15
    assert not psutil.pid_exists(int(pid.read_text())) or psutil.Process(int(pid.read_text())).status() == "zombie"


@pytest.mark.parametrize("apart", [False, True], ids=["child", "child in a session of its own"])
def test_what_a_program_leaves_running_is_ended_when_it_has_ended_well(command, tmp_path, apart):
    pid = tmp_path / "pid"
    body = (
        "import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session={apart})\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "save(labels)\n"
    )
    assert np.array_equal(run(command(body)), IMAGE.labels)
    child = int(pid.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


@pytest.mark.skipif(os.name == "nt", reason="the interrupt is sent as a signal")
def test_an_interrupt_ends_the_program(command, tmp_path):
    import signal

    pid = tmp_path / "pid"
    body = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"

    def interrupt() -> None:
        while not pid.is_file() or not pid.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests behind
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run(command(body, head=""))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 20
    assert not psutil.pid_exists(int(pid.read_text()))


def test_no_shell_reads_the_command(tmp_path, command):
    bad = tmp_path / "made by a shell"
    segmenter = programs.ProgramSegmenter(
        "x",
        [sys.executable, "-c", "import sys; sys.exit(4)", f"; echo > '{bad}'", "$(id)", "{input}", "{output}"],
        None,
    )
    with pytest.raises(SegmenterFailed, match="exit code 4"):
        run(segmenter)
    assert not bad.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("python 'a {input} {output}", "cannot be read"),
        ("python {input}", "has no {output}"),
        ("python {output}", "has no {input}"),
        ("no-such-program-anywhere {input} {output}", "is not there"),
    ],
)
def test_a_command_that_cannot_be_one(text, message):
    with pytest.raises(BadInput, match=message):
        programs.command_segmenter(text, [1])


def test_paths_of_windows_keep_their_backslashes():
    text = r'C:\tools\seg.exe "C:\my models\a" {input} {output}'
    assert programs.split_arguments(text, windows=True) == [
        r"C:\tools\seg.exe", r"C:\my models\a", "{input}", "{output}",
    ]  # fmt: skip
    assert programs.split_arguments("a 'b c' {input}", windows=False) == ["a", "b c", "{input}"]


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_time_limit_is_checked(wrong):
    with pytest.raises(BadInput, match="time limit"):
        programs.command_segmenter(f'"{sys.executable}" {{input}} {{output}}', [1], wrong)


@pytest.mark.parametrize(
    "text, message",
    [
        ("monai", "is no segmenter"),
        ("command:", "lacks what follows"),
        ("package", "lacks what follows"),
        ("train:fast", "takes nothing after a colon"),
    ],
)
def test_a_segmenter_that_is_none(text, message):
    with pytest.raises(BadInput, match=message):
        segmenters.check_spelled(text)
    assert segmenters.check_spelled("command: a {input} {output}") == ("command", "a {input} {output}")
    assert segmenters.check_spelled("nnunet:C:\\models\\a") == ("nnunet", "C:\\models\\a")


def test_missing_tools_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput) as error:
        programs.totalsegmentator("", [1], "CT")
    assert "pip install TotalSegmentator" in error.value.hint
    with pytest.raises(BadInput) as error:
        programs.nnunet("Dataset001_Liver", [1])
    assert "pip install nnunetv2" in error.value.hint
    with pytest.raises(BadInput, match="no folder of a trained nnU-Net"):
        programs.nnunet(str(tmp_path), [1])


@pytest.mark.skipif(os.name == "nt", reason="a script with a first line that names its interpreter")
def test_totalsegmentator_and_nnunet_are_called_as_they_want(monkeypatch, tmp_path):
    # Stand-ins that take the options of the real ones and refuse others.
    write_program(
        tmp_path / "TotalSegmentator",
        "import argparse, sys\n"
        "p = argparse.ArgumentParser()\n"
        "p.add_argument('-i', required=True); p.add_argument('-o', required=True)\n"
        "p.add_argument('--ml', action='store_true'); p.add_argument('--fast', action='store_true')\n"
        "p.add_argument('--task', choices=['total', 'total_mr'])\n"
        "a = p.parse_args()\n"
        "assert a.ml and a.fast and a.task == 'total'\n"
        "sys.argv = ['', a.i, a.o]\n" + HEAD + "labels[0, 0, 0] = 90\nsave(labels)\n",
    )
    write_program(
        tmp_path / "nnUNetv2_predict_from_modelfolder",
        "import argparse, pathlib, sys\n"
        "p = argparse.ArgumentParser()\n"
        "[p.add_argument(o, required=True) for o in ('-i', '-o', '-m')]\n"
        "p.add_argument('-f', nargs='+', required=True)\n"
        "a = p.parse_args()\n"
        "assert a.f == ['0', '2'] and a.m.endswith('model')\n"
        "file, = pathlib.Path(a.i).iterdir()\n"
        "assert file.name == 'image_0000.nii.gz'\n"
        "sys.argv = ['', str(file), str(pathlib.Path(a.o) / 'image.nii.gz')]\n" + HEAD + "save(labels)\n",
    )
    model = tmp_path / "model"
    for fold in ("fold_0", "fold_2"):
        (model / fold).mkdir(parents=True)
    (model / "plans.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # A value of TotalSegmentator's that no mask has is left out, and no error.
    assert np.array_equal(run(programs.totalsegmentator("fast", [1, 2], "CT")), IMAGE.labels)
    assert np.array_equal(run(programs.nnunet(str(model), [1, 2])), IMAGE.labels)


def identity(*more: str) -> str:
    return programs.command_segmenter(f'"{sys.executable}" {{input}} {{output}} ' + " ".join(more), [1]).identity


def test_other_weights_are_another_segmenter(tmp_path, monkeypatch):
    weights, model = tmp_path / "w.txt", tmp_path / "model"
    weights.write_text("120")
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "checkpoint.pth").write_text("120")
    arguments = (f"--weights={weights}", f"-m {model}")
    first = identity(*arguments)
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "x.pyc").write_text("made by running it")
    assert identity(*arguments) == first
    weights.write_text("300")
    second = identity(*arguments)
    (model / "fold_0" / "checkpoint.pth").write_text("3000")
    third = identity(*arguments)
    monkeypatch.setattr(programs, "HASHED_BYTES", 2)  # large files: their size, time, beginning and end
    monkeypatch.setattr(programs, "END_BYTES", 1)
    large = identity(*arguments)
    assert identity(*arguments) == large
    weights.write_text("301")
    assert len({first, second, third, large, identity(*arguments)}) == 5


def test_a_flipped_byte_in_a_cache_is_made_again_wherever_it_is(tmp_path):
    """Every byte of both kinds of kept files in turn: nothing but what was kept, or nothing at all."""
    from SynthDiffusionLib.evaluation.sets import extraction

    layers = (np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.uint16),)
    path = tmp_path / "a.npz"
    segmenters._store(path, layers)
    packed = path.read_bytes()
    features = np.random.default_rng(1).random((1, 5))
    np.savez(path, volume=features)
    plain = path.read_bytes()
    extractor = extraction.Extractor("x", "x", (), 5, ("volume",), {}, lambda image: {})
    remade = 0
    for content, read, kept in (
        (packed, lambda: segmenters._stored(path, (4, 4, 4)), layers[0]),
        (plain, lambda: (extraction._kept(path, extractor) or {"volume": None})["volume"], features),
    ):
        for at in range(0, len(content)):
            broken = bytearray(content)
            broken[at] ^= 1 << at % 8
            path.write_bytes(bytes(broken))
            found = read()
            remade += found is None
            assert found is None or np.array_equal(np.squeeze(found), np.squeeze(kept))
        np.save(path.open("wb"), kept)
        assert read() is None
    assert remade > 200


def test_what_was_found_is_kept_and_gone_on_with(tmp_path):
    whole, segmenter = phantom_set("real", 3), Thresholds()
    first, failures = segment_set(whole, segmenter, tmp_path)
    assert not failures and segmenter.calls == 3
    again, _ = segment_set(whole, segmenter, tmp_path)
    assert segmenter.calls == 3
    for a, b, case in zip(first, again, whole.cases):
        assert np.array_equal(a.mask(1), b.mask(1)) and np.array_equal(a.mask(2), case.labels == 2)
    for path in tmp_path.iterdir():  # damaged: made again
        path.write_bytes(path.read_bytes()[:40])
    segment_set(whole, segmenter, tmp_path)
    assert segmenter.calls == 6
    other = Thresholds()
    other.identity = "other thresholds"
    segment_set(whole, other, tmp_path)
    assert other.calls == 3


def test_one_failing_volume_is_named_and_left_out_and_all_failing_is_an_error(tmp_path):
    whole = phantom_set("real", 4)
    events = []
    bad = float(whole.cases[2].image.flat[0])
    found, failures = segment_set(whole, Thresholds(frozenset({bad})), tmp_path, events.append)
    assert [f is None for f in found] == [False, False, True, False]
    assert [(f.row, f.case) for f in failures] == [("real images", "p02")]
    assert any(e["event"] == "warning" and "p02" in e["message"] for e in events)
    everyone = frozenset(float(c.image.flat[0]) for c in whole.cases)
    with pytest.raises(RunFailed, match="failed on the first 3 volumes.*p00.*does not like"):
        segment_set(whole, Thresholds(everyone), tmp_path / "other")


def test_values_of_a_segmenter_are_mapped():
    mapped = segmenters.MappedSegmenter(Thresholds(), {2: 1})
    assert mapped.values == (1,)
    volume = Volume(IMAGE.image, AFFINE, "HU")
    assert np.array_equal(mapped(volume, print)[0], np.where(IMAGE.labels == 2, 1, 0))
    assert segmenters.parse_values("5=1, 6=1") == {5: 1, 6: 1}
    for wrong in ("5", "a=1", "5=0", "5:1"):
        with pytest.raises(BadInput, match="maps no label values"):
            segmenters.parse_values(wrong)


def test_a_mapping_does_not_change_what_is_in_the_cache(tmp_path):
    volume = [("a", Volume(IMAGE.image, AFFINE, "HU"))]
    plain = Thresholds()
    segment_images("x", volume, 1, plain, tmp_path)
    (found,), _ = segment_images("x", volume, 1, segmenters.MappedSegmenter(plain, {2: 1}), tmp_path)
    assert plain.calls == 1 and np.array_equal(found.mask(1), IMAGE.labels == 2)
    (found,), _ = segment_images("x", volume, 1, plain, tmp_path)
    assert np.array_equal(found.mask(2), IMAGE.labels == 2)


def test_a_package_without_the_classes_or_the_modality_is_refused():
    with pytest.raises(BadInput, match="is for MR, the volumes are CT"):
        segmenters.PackageSegmenter("hippocampus-mr", FRAME, {1: "liver"})
    with pytest.raises(BadInput, match="of which the masks have nothing"):
        segmenters.PackageSegmenter("lung-nodule-ct", FRAME, {7: "liver"})
    segmenter = segmenters.PackageSegmenter("lung-nodule-ct", FRAME, {7: "Nodule"})
    assert segmenter.values == (7,)  # by name, not by the value of the model's own scheme
