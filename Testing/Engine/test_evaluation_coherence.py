"""`evaluate coherence`: what the measures of neighbouring slices see, on volumes whose values are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from test_evaluation_samples import Job, write_prepared
from tiny_evaluation import RANGE, phantom_case, phantom_data
from tiny_package import make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.evaluation import card, coherence, samples
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.report import read_result
from SynthDiffusionLib.evaluation.rows import Row, real_items
from SynthDiffusionLib.volumes import Volume

MM = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def data():
    return phantom_data()


@pytest.fixture(scope="module")
def real(data):
    return Row("real", "real images", "real", real_items(data.evaluated, data.intensity_range))


def test_a_ramp_has_the_ratio_of_its_slopes():
    """Differences of 3, 1 and 5 along I, J and K: 5 over 2, the mean of those; per mm, 5/4 over (3/2 + 1/1) / 2."""
    i, j, k = np.meshgrid(np.arange(9), np.arange(8), np.arange(7), indexing="ij")
    found = coherence.slice_coherence(3.0 * i - 1.0 * j + 5.0 * k, (2.0, 1.0, 4.0))
    assert found["ratio"] == pytest.approx(2.5)
    assert found["ratio_mm"] == pytest.approx((5 / 4) / 1.25)
    assert found["correlation"] == pytest.approx(1.0)


def test_the_correlation_is_that_of_an_autoregressive_series():
    rng = np.random.default_rng(0)
    slices = [rng.standard_normal((60, 60))]
    for _ in range(40):
        slices.append(0.7 * slices[-1] + np.sqrt(1 - 0.49) * rng.standard_normal((60, 60)))
    found = coherence.slice_coherence(np.stack(slices, -1), MM)
    assert found["correlation"] == pytest.approx(0.7, abs=0.02)
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(slices, slices[1:])]
    assert found["correlation"] == pytest.approx(np.median(each))
    # |differences| of normal values go with their standard deviation: sqrt(2 (1 - 0.7)) over sqrt(2).
    assert found["ratio"] == pytest.approx(np.sqrt(0.3), abs=0.02)


def test_white_noise_has_no_preferred_axis():
    found = coherence.slice_coherence(np.random.default_rng(1).standard_normal((40, 40, 40)), MM)
    assert found["ratio"] == pytest.approx(1.0, abs=0.02) and abs(found["correlation"]) < 0.02


def test_flat_volumes_and_slices_have_no_values():
    flat = coherence.slice_coherence(np.full((20, 20, 5), 7.0), MM)
    assert all(np.isnan(flat[key]) for key in ("ratio", "ratio_mm", "correlation"))
    assert all(flat[key] == 0 for key in ("step_across", "step_in_plane", "flicker"))
    assert np.isnan(coherence.brightness_jumps(np.zeros((20, 20, 4)))["flicker"])  # two second differences
    assert np.isnan(coherence.brightness_jumps(np.zeros((5, 5, 20)))["flicker"])  # too few voxels
    volume = np.random.default_rng(2).standard_normal((20, 20, 12))
    padded = np.pad(volume, ((0, 0), (0, 0), (6, 6)))
    alone, beside = (coherence.slice_coherence(v, MM)["correlation"] for v in (volume, padded))
    assert beside == alone  # slices of padding do not count


def test_the_cartoons_lie_on_both_sides_of_the_real_images(data, real):
    result = coherence.measure_coherence(data, {})
    rows = {r["row"]: r for r in result["rows"]}
    assert rows["flicker"]["to_real"]["ratio"]["low"] > 1.05
    assert rows["smoothed"]["to_real"]["ratio"]["high"] < 0.95
    assert rows["real"]["to_real"]["ratio"]["value"] == pytest.approx(1.0)
    # A shift in mean leaves the correlation of slices (almost) as it is: values are clipped to the range.
    assert abs(rows["flicker"]["to_real"]["correlation"]["value"]) < 0.02
    assert rows["smoothed"]["to_real"]["correlation"]["low"] > 0
    flickering, _, _, _, smooth = coherence.cartoons(real, RANGE)
    for before, flicker, blurred in zip(real.items, flickering.items, smooth.items):
        shifts = (flicker.hu - before.hu)[2:4, 2:4]  # soft tissue, which is not clipped
        assert np.ptp(shifts, axis=(0, 1)).max() <= 1.0 and shifts[0, 0].std() > 10
        expected = ndimage.gaussian_filter1d(before.hu.astype(float), 1.0, axis=2, mode="nearest")
        assert np.abs(blurred.hu - expected).max() <= 0.5


@pytest.fixture(scope="module")
def fields():
    """Ten smooth random fields as real images, soft tissue without anything that is clipped."""
    cases = []
    for number in range(10):
        smooth = ndimage.gaussian_filter(np.random.default_rng([9, number]).standard_normal((40, 40, 24)), 1.2)
        case = phantom_case(number, "f")
        hu = np.rint(-300.0 + 100.0 * smooth / smooth.std()).astype(np.int16)
        image = Volume(hu, case.image.affine, "HU")
        cases.append(replace(case, image=image, classes=Volume(np.ones(hu.shape, np.uint8), image.affine, "label")))
    return replace(phantom_data(), evaluated=cases)


def altered(data, change):
    """The real images, each changed, as samples of a model."""
    items = real_items(data.evaluated, data.intensity_range)
    changed = (
        replace(item, hu=np.rint(change(item.hu.astype(float), np.random.default_rng([5, n]))).astype(np.float32))
        for n, item in enumerate(items)
    )
    return Row("nodule", "nodule alone", "ours", tuple(changed))


def test_each_cartoon_is_called_what_it_is(fields):
    rows = {r["row"]: r for r in coherence.measure_coherence(fields, {})["rows"]}
    said = {name: coherence.words_of(rows[name]) for name in rows if name != "real"}
    of = {name: {m: rows[name]["to_real"][m] for m in coherence.STEPS} for name in said}
    # Blur raises the ratio more than flicker does, and is still no jump: both steps are smaller.
    assert of["blurred"]["ratio"]["low"] > of["flicker"]["ratio"]["high"] > 1.0
    assert of["blurred"]["step_across"]["high"] < 1.0 and of["blurred"]["step_in_plane"]["high"] < 0.8
    assert "jump" not in said["blurred"] and said["blurred"].endswith("most in the plane of the slices")
    # Noise hides shifts from the ratio, not from the brightness of slices.
    assert of["flicker_noise"]["ratio"]["value"] < of["flicker"]["ratio"]["low"]
    assert said["flicker"] == "slices jump more than in real images; the brightness of slices jumps (flicker)"
    assert "brightness of slices jumps" in said["flicker_noise"]
    assert "jump" not in said["smoothed"] and "most across the slices" in said["smoothed"]
    assert of["flicker"]["flicker"]["low"] > 3 and of["flicker_noise"]["flicker"]["low"] > 3
    assert of["blurred"]["flicker"]["value"] == pytest.approx(1.0, abs=0.1)
    assert said["noise"] == "steps are larger in all directions, as with noise, in which jumps of slices may hide"
    # Brightness is smoothed as well, and noise averages out over a slice.
    assert of["smoothed"]["flicker"]["high"] < 0.8 and of["noise"]["flicker"]["high"] < 1.25


@pytest.mark.parametrize("sigma", [20.0, 150.0])
def test_noise_is_no_flicker(fields, sigma):
    row = altered(fields, lambda x, rng: x + sigma * rng.standard_normal(x.shape))
    (found,) = (r for r in coherence.measure_coherence(fields, {"nodule": row})["rows"] if r["row"] == "nodule")
    assert coherence.words_of(found) == (
        "steps are larger in all directions, as with noise, in which jumps of slices may hide"
    )


def test_noise_on_images_that_are_smooth_across_is_no_jump(fields):
    """The ratio of these is below 1, and noise, which has a ratio of 1, raises it."""
    smooth = [
        replace(c, image=c.image.with_array(ndimage.gaussian_filter1d(c.image.array, 2.0, axis=2)))
        for c in fields.evaluated
    ]
    thick = replace(fields, evaluated=smooth)
    row = altered(thick, lambda x, rng: x + 20.0 * rng.standard_normal(x.shape))
    (found,) = (r for r in coherence.measure_coherence(thick, {"nodule": row})["rows"] if r["row"] == "nodule")
    assert found["to_real"]["ratio"]["low"] > 1.2 and found["to_real"]["step_across"]["low"] > 1.0
    assert "jump more" not in coherence.words_of(found) and "as with noise" in coherence.words_of(found)


def test_independent_slices_jump_without_flicker(fields):
    """Slices of one mean, in the wrong order: pattern jumps, brightness does not."""

    def shuffled(x, rng):
        mixed = x[..., rng.permutation(x.shape[2])]
        inner = (slice(coherence.BODY_MARGIN, -coherence.BODY_MARGIN),) * 2  # where flicker looks
        return mixed - mixed[inner].mean((0, 1)) + x[inner].mean((0, 1))

    (found,) = (
        r
        for r in coherence.measure_coherence(fields, {"nodule": altered(fields, shuffled)})["rows"]
        if r["row"] == "nodule"
    )
    assert coherence.words_of(found) == "slices jump more than in real images"
    assert found["to_real"]["step_in_plane"]["value"] == pytest.approx(1.0, abs=0.02)


def test_flicker_is_the_deviation_of_the_shifts_and_blind_to_what_surrounds_the_body():
    rng = np.random.default_rng(3)
    shifts = rng.normal(0, 12, 400)
    flat = np.full((20, 20, 400), 200.0) + shifts
    found = coherence.brightness_jumps(flat, 100.0)
    assert found["flicker"] == pytest.approx(12, rel=0.1) and found["flicker_of_noise"] == pytest.approx(0, abs=1e-9)
    # The same body in air that does not flicker, and a trend, which is no jump.
    padded = np.zeros((60, 60, 400))
    padded[20:40, 20:40] = 400.0 + shifts + 0.5 * np.arange(400)
    within = coherence.brightness_jumps(padded, 100.0)["flicker"]
    assert within > 0.5 * found["flicker"]
    assert coherence.brightness_jumps(np.full((20, 20, 20), 5.0) * np.arange(20))["flicker"] == pytest.approx(0)
    noise = coherence.brightness_jumps(rng.normal(0, 50, (28, 28, 400)))
    assert noise["flicker"] == pytest.approx(50 / 20, rel=0.15)  # the mean of 400 voxels, without a margin of 4
    assert noise["flicker_of_noise"] == pytest.approx(noise["flicker"], rel=0.15)


def padded_fields(fields):
    """The fields in black padding with oblique ends; the first slice that has any of them has a sliver of them."""
    shape = fields.evaluated[0].image.array.shape
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = (k + 0.3 * i < 0.75) & (k - 0.3 * j > -0.75) & (i**2 + j**2 < 0.9)
    inside[..., :4] = False
    inside[18:24, 5:30, 3] = True
    cases = [replace(c, image=c.image.with_array(np.where(inside, c.image.array, RANGE[0]).astype(np.int16)))
             for c in fields.evaluated]  # fmt: skip
    return replace(fields, evaluated=cases), inside


def test_flicker_does_not_depend_on_where_the_body_ends(fields):
    padded, inside = padded_fields(fields)
    floor = RANGE[0] + coherence.BODY_FLOOR * (RANGE[1] - RANGE[0])
    for before, after in zip(fields.evaluated, padded.evaluated):
        # What is measured is what is measured of the image without padding, over the same voxels.
        body = coherence.inside_body(after.image.array.astype(float), floor)
        assert not (body & ~inside).any()
        image = before.image.array.astype(float)
        bends = image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]
        chosen = body[..., 2:] & body[..., 1:-1] & body[..., :-2]
        counts = chosen.sum((0, 1))
        kept = [k for k in range(len(counts)) if counts[k] >= max(64, 0.25 * counts.max())]
        expected = np.std([bends[..., k][chosen[..., k]].mean() for k in kept]) / np.sqrt(6)
        found = coherence.brightness_jumps(after.image.array.astype(float), floor)["flicker"]
        assert len(kept) >= 5 and found == pytest.approx(expected)


def test_padding_hides_no_jump_and_makes_none(fields):
    rows = {r["row"]: r for r in coherence.measure_coherence(padded_fields(fields)[0], {})["rows"]}
    of = {name: rows[name]["to_real"]["flicker"] for name in rows}
    assert of["flicker"]["low"] > 3 and of["flicker_noise"]["low"] > 3
    assert of["smoothed"]["high"] < 0.9  # smoothing smears the body into the padding
    assert 0.9 < of["noise"]["value"] < 1.25  # noise makes a sliver bright enough to be body


def test_compared_samples_stand_beside_what_smoothing_them_gets(data, real):
    rough = [replace(i, hu=i.hu + s) for i, s in zip(real.items, np.random.default_rng(0).normal(0, 90, (9, 1, 1, 24)))]
    before, after = (Row("nodule", "nodule alone", "ours", tuple(items)) for items in (rough, real.items))
    result = coherence.measure_coherence(data, {"nodule": after}, {"nodule": before}, "without refiner")
    row = result["rows"][-1]
    assert row["row"] == "nodule_compared_smoothed" and row["kind"] == "no-skill"
    assert row["label"] == "nodule alone, compared: without refiner, smoothed across slices"
    own = [v for v in result["per_volume"] if v["row"] == row["row"]]
    clipped = np.clip(rough[0].hu, *RANGE)
    smooth = np.rint(np.clip(ndimage.gaussian_filter1d(rough[0].hu.astype(float), 0.5, axis=2, mode="nearest"), *RANGE))
    assert own[0]["step_across"] == pytest.approx(np.abs(np.diff(smooth, axis=2)).mean(), rel=1e-6)
    assert np.abs(np.diff(clipped, axis=2)).mean() > own[0]["step_across"]
    other = next(r for r in result["rows"] if r["row"] == "nodule_compared")
    expected = row["step_across"]["value"] / other["step_across"]["value"]
    assert row["to_compared"]["step_across"]["value"] == pytest.approx(expected)
    assert coherence.verdict_lines(result)[-1].startswith("  no skill: times the compared ones, these have")
    assert "compared, smoothed" in result["definitions"]
    assert "compared, smoothed" not in coherence.measure_coherence(data, {})["definitions"]


def test_samples_before_and_after_are_compared_by_patient(data, real):
    noisy = [replace(i, hu=i.hu + s) for i, s in zip(real.items, np.random.default_rng(0).normal(0, 90, (9, 1, 1, 24)))]
    before, after = (Row("nodule", "nodule alone", "ours", tuple(items)) for items in (noisy, real.items))
    result = coherence.measure_coherence(data, {"nodule": after}, {"nodule": before})
    rows = {r["row"]: r for r in result["rows"]}
    assert rows["nodule"]["to_real"]["ratio"]["value"] == pytest.approx(1.0)
    against = rows["nodule_compared"]["against"]["ratio"]
    assert against["high"] < 0.9 and against["value"] == pytest.approx(
        rows["real"]["ratio"]["value"] / rows["nodule_compared"]["ratio"]["value"]
    )
    lines = coherence.verdict_lines(result)
    assert "like those of real images" in lines[0] and "slices jump more" in lines[1] and "times these" in lines[2]
    for line in lines:
        assert all(name in line for name in ("ratio ", "step across ", "step in plane ", "flicker "))
    each = rows["nodule_compared"]["against"]
    # Shifts of whole slices leave the plane as it is, but for clipping.
    assert each["step_across"]["high"] < 0.9 and each["step_in_plane"]["value"] == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"id": "m", "version": "1", "files": {"denoiser.safetensors": "a"}}, "without refiner"),
        ({"id": "m", "version": "2", "files": {"denoiser.safetensors": "other"}}, "m 2"),
        ({"id": "n", "version": "1", "files": {"denoiser.safetensors": "a"}}, "n 1"),
        ({"id": "m", "version": "2", "files": {"denoiser.safetensors": "a", "refiner.safetensors": "b"}}, "m 2"),
    ],
)
def test_what_is_compared_is_named(other, said):
    model = {"id": "m", "version": "1", "files": {"denoiser.safetensors": "a", "refiner.safetensors": "b"}}
    assert coherence.other_model(model, other) == said


def test_the_command_and_the_card(tmp_path, capsys):
    prepared = write_prepared(tmp_path / "prepared")
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    training = {"dataset": "phantoms", "license": "CC0-1.0", "split": split}
    package = make_working_package(tmp_path / "tiny-ct", training=training)
    other = make_working_package(tmp_path / "other" / "tiny-ct", training=training, version="9.0.0")
    data = load_evaluation_data(prepared, package.spec)
    samples.make_samples(package, data, tmp_path / "after", samples.Settings(("nodule",)), run=Job())
    samples.make_samples(other, data, tmp_path / "before", samples.Settings(("nodule",)), run=Job())
    command = ["evaluate", "coherence", "--model", str(package.folder), "--data", str(prepared)]
    command += ["--samples", str(tmp_path / "after"), "--out", str(tmp_path / "results")]
    assert cli.main([*command, "--compare", str(tmp_path / "before")]) == 0
    said = capsys.readouterr().out
    assert "nodule alone, compared: tiny-ct 9.0.0" in said and "real images, slices shifted in mean" in said
    result = read_result(tmp_path / "results" / "coherence.json")
    (compared,) = (r for r in result["rows"] if r["row"] == "nodule_compared")
    assert compared["against"]["ratio"]["value"] == pytest.approx(1.0)  # the same pictures
    assert "--compare OTHER_SAMPLES" in result["command"]
    # The samples themselves must be this model's.
    assert cli.main([*command[:-4], "--samples", str(tmp_path / "before"), "--out", str(tmp_path / "no")]) != 0
    titles, cells = coherence.table(result)
    assert len(cells) == 9 and all(len(row) == len(titles) for row in cells)
    assert "coherence" in card.OPTIONAL
