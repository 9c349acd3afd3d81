"""The comparison of methods: budgets, what is run, rules and page, with fakes in place of trainings."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_evaluation import phantom_data

from SynthDiffusionLib.evaluation.adherence import measure_adherence
from SynthDiffusionLib.evaluation.arms import JOINT
from SynthDiffusionLib.evaluation.rows import Row, real_items
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.training.config import load_config
from SynthDiffusionLib.training.stages import load_stage_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import compare_methods as compare  # noqa: E402
import comparison_measures as measures  # noqa: E402
import comparison_page as page  # noqa: E402
import comparison_rules as rules  # noqa: E402

MEDLORD = next(m for m in compare.METHODS if m.name == "medlord")
TITLES = {m.name: m.title for m in compare.METHODS}
DRAWING = ("patch-ddpm", "medlord", "med-lsdm")
MACHINE = {"processor": "P", "logical_cpus": 2, "gpu": None, "threads": 1, "system": "S", "python": "3", "torch": "2"}
PATIENTS = {"train": 67, "validation": 20, "test": 20}


def arguments(tmp_path, *more):
    return compare.parser().parse_args(["train", "--out", str(tmp_path), "--data", str(tmp_path / "data"), *more])


def reader_of(method):
    """What `synthdiffusion train` reads the configuration with."""
    import importlib

    if method.backend == "patch_ddpm":
        return load_config
    found = importlib.import_module(f"SynthDiffusionLib.training.{method.backend}.config").METHOD
    return lambda path: load_stage_config(path, found)


@pytest.mark.parametrize("method", compare.METHODS, ids=lambda m: m.name)
def test_the_stages_share_the_budget_and_their_configurations_can_be_read(method, tmp_path):
    total = 0.0
    for stage in method.stages:
        text = method.configuration(stage).read_text(encoding="utf-8")
        scaled = compare.scaled_configuration(text, minutes=30.0, clock="wall", data=tmp_path / "d", out=tmp_path / "o")
        path = tmp_path / f"{stage}.toml"
        path.write_text(scaled, encoding="utf-8")
        config = reader_of(method)(path)
        assert config.data == (tmp_path / "d").resolve()
        total += config.minutes
        assert config.clock == "wall"
        for earlier in ("autoencoder", "denoiser", "refiner"):
            if getattr(config, earlier, None) is not None:
                assert getattr(config, earlier).parent == (tmp_path / "o").resolve()
    assert total == pytest.approx(30.0)


def test_a_setting_must_be_there_once():
    assert compare.replaced('a = 1  # why\nclock = "wall"\n', "a", "2") == 'a = 2  # why\nclock = "wall"\n'
    for text in ("b = 1\n", "a = 1\na = 2\n"):
        with pytest.raises(ValueError, match="1 was expected"):
            compare.replaced(text, "a", "2")


class FakeTraining:
    """Stands for the child processes: writes what a stage leaves behind, and remembers the commands."""

    def __init__(self, latents_s=60.0):
        self.ran, self.latents_s, self.fail = [], latents_s, ""

    def __call__(self, command, log, threads):
        import tomllib

        configuration, folder = Path(command[4]), Path(command[6])
        config = tomllib.loads(configuration.read_text(encoding="utf-8"))
        minutes = config["run"]["minutes"]
        self.ran.append((configuration.stem, minutes, "--resume" in command))
        if configuration.stem == self.fail:
            return {"wall_s": 9.0, "processor_s": 3.0, "code": 1}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.pt").write_bytes(b"")
        summary = {"steps": 100, "seconds": 60.0 * minutes, "clock": config["run"]["clock"]}
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        if "latents" in config:
            (folder / "latents").mkdir(exist_ok=True)
        if "package" in config:
            (folder / "package").mkdir(exist_ok=True)
            (folder / "package" / "model.json").write_text("{}", encoding="utf-8")
        seconds = self.latents_s if minutes == 0.0001 else 10.0 + 60.0 * minutes
        return {"wall_s": 3 * seconds, "processor_s": seconds, "code": 0}


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr(compare, "run_child", fake)
    monkeypatch.setattr(compare, "trained_by_others", lambda folder: False)
    monkeypatch.setattr(compare, "machine", lambda device, threads: {"threads": threads})
    return fake


def test_trains_the_stages_in_order_and_takes_the_latents_off_the_budget(tmp_path, training):
    record = compare.train_method(MEDLORD, arguments(tmp_path), lambda line: None)
    names = [name for name, *_ in training.ran]
    assert names == ["medlord-autoencoder", "medlord-diffusion-preparation", "medlord-diffusion", "medlord-controlnet"]
    stages = record["stages"]
    minutes = dict((name, m) for name, m, _ in training.ran)
    assert minutes["medlord-diffusion"] == pytest.approx(6.0 - 1.0)
    assert minutes["medlord-autoencoder"] + 1.0 + minutes["medlord-diffusion"] + minutes["medlord-controlnet"] == 15.0
    assert all(s["done"] and s["steps"] == 100 for s in stages.values())
    folder = tmp_path / "medlord-diffusion"
    assert (folder / "latents").is_dir() and read(folder / "summary.json")["seconds"] == pytest.approx(300.0)
    assert read(tmp_path / "train" / "medlord.json") == record
    assert compare.read_records(tmp_path)["methods"] == {"medlord": {"stages": stages}}
    before = len(training.ran)
    compare.train_method(MEDLORD, arguments(tmp_path), lambda line: None)
    assert len(training.ran) == before  # nothing is done twice
    with pytest.raises(RuntimeError, match="other settings"):
        compare.train_method(MEDLORD, arguments(tmp_path, "--minutes", "7"), lambda line: None)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_records_of_different_trainings_are_not_put_on_one_page(tmp_path, training):
    for method, clock in (("medlord", "processor"), ("med-lsdm", "wall")):
        chosen = next(m for m in compare.METHODS if m.name == method)
        compare.train_method(chosen, arguments(tmp_path, "--clock", clock), lambda line: None)
    with pytest.raises(ValueError, match="differ in their settings"):
        compare.read_records(tmp_path)
    assert compare.read_records(tmp_path / "nowhere") == {}


def test_methods_share_a_gpu_by_the_clock_on_the_wall_alone():
    with pytest.raises(SystemExit, match="--clock wall"):
        compare.main(["train", "--together"])


def test_latents_that_take_too_long_leave_some_training(tmp_path, training):
    training.latents_s = 1000.0
    compare.train_method(MEDLORD, arguments(tmp_path), lambda line: None)
    minutes = dict((name, m) for name, m, _ in training.ran)
    assert minutes["medlord-diffusion"] == pytest.approx(6.0 * compare.LEAST_SHARE)


def test_takes_a_stage_that_was_trained_before_and_goes_on_where_one_failed(tmp_path, training):
    folder = tmp_path / "medlord-autoencoder"
    folder.mkdir()
    (folder / "summary.json").write_text('{"steps": 9, "seconds": 300.0, "clock": "processor"}', encoding="utf-8")
    training.fail = "medlord-diffusion"
    with pytest.raises(RuntimeError, match="diffusion, failed"):
        compare.train_method(MEDLORD, arguments(tmp_path), lambda line: None)
    record = read(tmp_path / "train" / "medlord.json")
    first, second = (record["stages"][s] for s in ("autoencoder", "diffusion"))
    assert first["by_hand"] and first["done"] and first["steps"] == 9
    assert not second["done"] and second["processor_s"] == 3.0
    training.fail, training.ran = "", []
    record = compare.train_method(MEDLORD, arguments(tmp_path), lambda line: None)
    assert [name for name, *_ in training.ran] == ["medlord-diffusion", "medlord-controlnet"]  # latents are kept
    assert record["stages"]["diffusion"]["processor_s"] == pytest.approx(3.0 + 10.0 + 300.0)


def test_the_segmenter_must_know_the_same_patients():
    cases = {name: {"patient": name[0]} for name in ("a1", "b1", "c1", "d1")}
    description = {"cases": cases, "split": {"train": ["a1", "b1"], "validation": ["c1"], "test": ["d1"]}}
    same = {"train": ["b", "a1"], "validation": ["c1"], "test": ["d1"]}
    assert measures.check_same_patients(description, same) == {"train": 2, "validation": 1, "test": 1}
    with pytest.raises(ValueError, match="'train' differs"):
        measures.check_same_patients(description, {**same, "train": ["a1", "b1", "d1"]})


def perfect(data):
    """A segmenter that finds the nodule of the phantoms: the mask itself, looked up by the image."""
    known = {i.hu.tobytes(): i.classes == data.target_value for i in real_items(data.evaluated, data.intensity_range)}
    return lambda hu: known.get(hu.tobytes(), np.zeros(hu.shape, bool))


def test_what_follows_its_mask_gains_over_other_masks_and_what_does_not_gains_nothing():
    data = phantom_data()
    real = Row("m", "m", "ours", real_items(data.evaluated, data.intensity_range))
    images = [item.hu for item in real.items]
    same = Row("same", "same", "ours", tuple(replace(item, hu=images[0]) for item in real.items))
    arms = {row.name: row for r in (real, same) for row in (r, measures.with_others_masks(r))}
    others = arms["m" + measures.OTHERS]
    assert [i.patient for i in others.items] == [*real.patients[1:], real.patients[0]]
    assert all(np.array_equal(o.hu, i.hu) for o, i in zip(others.items, real.items))
    found = measure_adherence(data, arms, perfect(data), None)["per_volume"]
    gain = measures.gain_over_others(found, "m")
    assert gain["low"] > 0
    none = measures.gain_over_others(found, "same")  # one image for all masks: every mask fits it as well as another
    assert none["value"] == pytest.approx(0.0) and none["low"] <= 0


def test_asked_and_made_are_equal_where_the_mask_is_the_one_that_was_asked_for():
    data = phantom_data()
    items = list(real_items(data.evaluated, data.intensity_range))
    items[0] = replace(items[0], classes=np.zeros_like(items[0].classes))
    found = measures.asked_and_made(items, data)
    assert found[0]["measured"] is None and found[0]["pieces"] == 0
    assert all(v["measured"] == pytest.approx(v["asked"]) and v["pieces"] == 1 for v in found[1:])


def figure(**changes):
    base = {"ratio": 0.95, "ratio_low": 0.9, "ratio_high": 1.0, "gain": 0.2, "gain_low": 0.1}
    base |= {"nearer": {"ball": 1.0, "unrelated_real": 1.0}, "mmd2": 0.1, "mmd2_low": 0.08, "mmd2_high": 0.12}
    base |= {"nearer_than": {m.name: 0.99 for m in compare.METHODS}}
    base |= {"mmd2_below_all": True, "frechet": 1.0, "auc": 0.9, "seconds": 30.0, "seconds_further": 10.0}
    base |= {"peak_bytes": 10**9, "package_bytes": 10**6, "parameters": 10**6, "trained_s": 900.0}
    return base | {"trained_steps": [100]} | changes


def decided(**changes):
    figures = {m.name: figure(**changes.get(m.name.replace("-", "_"), {})) for m in compare.METHODS}
    return {o.need: o for o in rules.decide(figures, DRAWING, TITLES)}


def test_names_the_best_where_it_leads():
    found = decided(
        medlord={"ratio": 1.0}, patch_ddpm={"ratio": 0.8}, med_lsdm={"ratio": 1.2, "seconds_further": 5.0},
        slice_ldm={"mmd2": 0.01, "mmd2_high": 0.02, "peak_bytes": 5 * 10**8, "ratio": 1.0},
    )  # fmt: skip
    winners = {need: o.winner for need, o in found.items()}
    assert winners == {
        "follows_drawing": "medlord", "looks_real": "slice-ldm", "fastest": "med-lsdm", "least_memory": "slice-ldm"
    }  # fmt: skip


def test_names_nobody_where_it_does_not_decide():
    even = {m.name.replace("-", "_"): {"nearer_than": {n.name: 0.5 for n in compare.METHODS}} for m in compare.METHODS}
    found = decided(**even)
    assert all(o.winner is None for o in found.values())
    assert set(found["follows_drawing"].level) == set(DRAWING)  # a method without a drawing follows none
    assert len(found["looks_real"].level) == 4


def test_the_first_follows_best_only_where_resampled_patients_say_so():
    """A ratio that is far nearer to 1 is no win by itself."""
    shares = {m.name: 1.0 for m in compare.METHODS} | {"med-lsdm": 0.974}
    leads = {"ratio": 1.0, "nearer_than": shares}
    worse = {"nearer": {"ball": 0.9, "unrelated_real": 1.0}, "ratio": 0.8}  # does not qualify, and counts all the same
    found = decided(patch_ddpm=leads, medlord={"ratio": 0.65}, med_lsdm=worse)["follows_drawing"]
    assert found.winner is None and found.level == ("patch-ddpm", "med-lsdm")
    assert found.text.startswith("patch-wise DDPM is first, but not clearly ahead of Med-LSDM. ")
    assert "Med-LSDM with 0.80 in 97.4% of the resamples, MedLoRD with 0.65 in 100.0%" in found.text
    shares["med-lsdm"] = 0.975
    found = decided(patch_ddpm=leads, medlord={"ratio": 0.65}, med_lsdm=worse)["follows_drawing"]
    assert found.winner == "patch-ddpm" and "97.5%" in found.text
    assert "each other method that takes a drawing in at least 97.5%" in rules.rule_text("follows_drawing")


def test_resamples_of_patients_are_the_same_for_both():
    scores = {"a": [0.9, 0.5, 0.7, 0.6], "b": [0.8, 0.4, 0.6, 0.5], "real": [0.9, 0.8, 0.9, 0.7]}
    found = [{"row": r, "patient": str(n), "dice": d} for r, values in scores.items() for n, d in enumerate(values)]
    assert measures.nearer_to_one(found, "a", "b") == 1.0  # nearer in every patient
    assert measures.nearer_to_one(found, "b", "a") == 0.0 == measures.nearer_to_one(found, "a", "a")


def test_a_method_that_no_skill_rows_beat_is_not_named():
    worse = {m.name.replace("-", "_"): {"mmd2_below_all": False, "gain_low": -0.1} for m in compare.METHODS}
    found = decided(**worse)
    assert found["looks_real"].winner is None and "None of the four did" in found["looks_real"].text
    assert found["follows_drawing"].winner is None and "other patients' masks" in found["follows_drawing"].text
    ball = {m.name.replace("-", "_"): {"nearer": {"ball": 0.5, "unrelated_real": 1.0}} for m in compare.METHODS}
    assert "not clearly nearer to 1 than the ball" in decided(**ball)["follows_drawing"].text


def test_decides_nothing_while_a_method_is_not_measured():
    found = decided(med_lsdm={"ratio": None}, slice_ldm={"mmd2": None})
    assert found["follows_drawing"].text == "Not decided: Med-LSDM not measured."
    assert found["looks_real"].winner is None and found["fastest"].text.startswith("patch-wise DDPM")


def fake_measures():
    """Contents of `measures.json` as the evaluation writes them, for phantoms in place of samples."""
    from SynthDiffusionLib.evaluation.control import summarise, training_characteristics
    from SynthDiffusionLib.evaluation.fidelity import measure_fidelity

    data = phantom_data()
    items = real_items(data.evaluated, data.intensity_range)
    names = {m.name: measures.row_name(m) for m in compare.METHODS}
    rows = {n: Row(r, TITLES[n], "ours", items) for n, r in names.items()}
    arms = {row.name: row for r in rows.values() for row in (r, measures.with_others_masks(r))}
    whole = measure_fidelity(data, {"anatomy": replace(rows["medlord"], name="anatomy")}, None, auc_steps=0)
    joint = measure_fidelity(data, {JOINT: rows["slice-ldm"]}, None, auc_steps=0)
    return {
        "row_of": names,
        "segmenter": {"model": "lung-nodule-ct 9.9.9"},
        "auc_steps": 0,
        "adherence": measures.adherence_of(data, rows, arms, perfect(data)),
        "fidelity": {n: joint if n == "slice-ldm" else whole for n in rows},
        "control": summarise(measures.asked_and_made(items, data), training_characteristics(data, data.target_value)),
    }


def test_rows_without_a_model_have_gains_as_the_methods_do(measured):
    adherence = measured["adherence"]
    rows = {r["row"]: r for r in adherence["rows"]}
    for name, row in rows.items():
        if row["kind"] != "ours" and name != "real_shifted":
            gain = adherence["gain_over_others"][name]
            assert gain["value"] == pytest.approx(row["dice_mean"] - adherence["others_dice"][name], abs=1e-6), name
    # Real images fit their own masks; a ball that sees nothing fits each other's as well.
    assert adherence["gain_over_others"]["real"]["low"] > 0
    assert adherence["gain_over_others"]["ball"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert {"ball", "class_means_noise", measures.PAINTED, "med-lsdm"} <= set(adherence["nearer_to_one"]["patch-ddpm"])


def test_the_painted_cartoon_has_the_mean_of_each_class():
    data = phantom_data()
    row = measures.painted_row(data)
    real = real_items(data.evaluated, data.intensity_range)
    assert row.kind == "no-skill" and [i.patient for i in row.items] == [i.patient for i in real]
    lung = [c.image.array[c.classes.array == 2].clip(*data.intensity_range).mean() for c in data.training]
    for item in row.items:
        deep = item.classes == 2
        deep[:-4] = False  # far from the wall and the nodule
        assert item.hu[deep].mean() == pytest.approx(np.mean(lung), abs=5) and item.hu[deep].std() < 1


@pytest.fixture(scope="module")
def measured():
    return fake_measures()


def test_the_page_holds_the_figures_and_says_what_is_not_measured(measured, tmp_path):
    args = arguments(tmp_path)
    stage = {"wall_s": 900.0, "processor_s": 450.0, "by_hand": False, "done": True, "steps": 77, "loop_s": 440.0}
    # The second was interrupted: its last process took less than its loop.
    later = stage | {"preparation_s": 60.0, "wall_s": 300.0, "processor_s": 100.0, "loop_s": 450.0}
    before = stage | {"wall_s": 0.0, "processor_s": 0.0, "by_hand": True, "loop_s": 444.0}
    stages = {"autoencoder": stage, "diffusion": later, "controlnet": before}
    settings = {"minutes": 15.0, "clock": "processor", "threads": 1, "device": "cpu"}
    train = {"settings": settings, "machine": MACHINE, "methods": {"medlord": {"stages": stages}}}
    own = {"seconds": 31.25, "seconds_further": 4.5, "peak_bytes": 123 * 10**7, "peak_gpu_bytes": None, "steps": 25}
    own |= {"sampler": "ddim", "parameters": {"denoiser": 2_500_000}, "package_bytes": 5_100_000}
    cost = {"clock": "processor", "methods": {"medlord": own}}
    figures = {m.name: rules.figures_of(m.name, train, cost, measured) for m in compare.METHODS}
    outcomes = rules.decide(figures, DRAWING, TITLES)
    text = page.page_text(train, cost, measured, PATIENTS, args, compare.METHODS, outcomes, ("a", "b"))
    assert "| MedLoRD | autoencoder | 77 |  | 7.5 | 15.0 for 7.5 |" in text
    assert "| MedLoRD | controlnet | 77 |  | 7.4* | not known |" in text
    assert (
        "| MedLoRD | diffusion | 77 | 1.0 | 7.5* | 5.0 for 1.7 |" in text and "\\* interrupted and gone on with" in text
    )
    assert "| **MedLoRD** | **together** |  |  | **23.4** |  |" in text
    said = " ".join(text.split())
    assert "Equal processor time is not equal wall time" in said and "showed 2.0 to 3.0 times as much." in said
    assert "Cartoons that are painted on the drawing gain about as much (" in said and "class means, blurred" in said
    assert "| MedLoRD | ddim, 25 | 31.2 | 4.5 | 1.23 GB | 2.50 M | 5.1 MB |" in text
    assert "| Med-LSDM | autoencoder | not measured |" in text
    assert "Fastest**: Not decided: patch-wise DDPM, slice-based latent diffusion, Med-LSDM not measured." in text
    assert "| MedLoRD | 1.00 | 1.00 [1.00, 1.00] | 100% |" in text  # a perfect segmenter on real images
    assert "| *ball, blind to the image* |" in text and "| other real images (floor) |" in text
    assert "volume and sphericity followed what was asked" in text.replace("\n", " ")
    flat = text.replace("\n", " ")
    assert "Volumes are off by a factor of " in flat and " of its images with its own masks: " in flat
    assert "lung-nodule-ct 9.9.9" in text and "Images/comparison_methods.jpg" in text
    assert max(map(len, (line for line in text.splitlines() if line[:1] not in "|-!"))) <= page.WIDTH
    unheeded = json.loads(json.dumps(measured["control"]))
    for row in unheeded["rows"]:
        row["slope"]["low"] = -1.0
    assert "volume and sphericity did not clearly follow" in page.control_words({"control": unheeded})
    nothing = page.page_text({}, {}, {}, PATIENTS, args, compare.METHODS, outcomes, ())
    assert "The picture has not been made yet." in nothing and "How many masks are empty is not measured." in nothing


def test_what_is_in_the_project_is_kept_where_nothing_was_measured(tmp_path):
    kept = {path: path.read_bytes() for path in (page.PAGE, page.METHODS_JSON)}
    with pytest.raises(SystemExit, match="holds no comparison"):
        compare.main(["page", "--out", str(tmp_path / "mistyped"), "--data", str(tmp_path)])
    assert kept == {path: path.read_bytes() for path in kept}


@pytest.mark.parametrize("minutes", ["-1", "0", "nan", "inf"])
def test_a_budget_must_be_a_number_above_nothing(minutes, tmp_path):
    with pytest.raises(SystemExit, match="above 0"):
        compare.main(["train", "--minutes", minutes, "--out", str(tmp_path)])


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "slice-ldm.json").write_text('{"method": ', encoding="utf-8")
    with pytest.raises(SystemExit, match="slice-ldm.json' is damaged"):
        compare.main(["page", "--out", str(tmp_path)])


def test_methods_json_names_winners_only_when_all_is_measured():
    from SynthDiffusionLib.resources import resource_path

    figures = {m.name: figure(seconds_further=1.0 if m.name == "medlord" else 9.0) for m in compare.METHODS}
    outcomes = rules.decide(figures, DRAWING, TITLES)
    train = {"settings": {"minutes": 15.0, "clock": "processor"}, "machine": MACHINE}
    full = page.methods_content(figures, outcomes, train, compare.METHODS, PATIENTS)
    assert first_problem(full, "methods") is None
    assert full["methods"]["medlord"]["wins"] == ["fastest"]
    assert full["methods"]["medlord"]["best_for"].endswith("trained equally long on little data, it is the fastest.")
    assert full["methods"]["medlord"]["figures"]["ratio"] == 0.95 and full["methods"]["maisi"]["figures"] is None
    figures["med-lsdm"]["ratio"] = None
    part = page.methods_content(figures, outcomes, train, compare.METHODS, PATIENTS)
    assert first_problem(part, "methods") is None and not part["comparison"]["measured"]
    assert not any(entry["wins"] for entry in part["methods"].values())
    shipped = read(resource_path("Methods", "methods.json"))
    for backend, entry in part["methods"].items():  # the shipped file is what the script makes
        for key in ("name", "paper", "input", "in_short"):
            assert shipped["methods"][backend][key] == entry[key]
        assert shipped["methods"][backend]["best_for"].startswith(entry["best_for"])


def test_the_picture_has_a_row_for_each_method_and_a_column_for_each_mask(tmp_path):
    from PIL import Image

    data = phantom_data()
    real = {i.case: i for i in real_items(data.evaluated, data.intensity_range)}
    cases = list(real)[:3]
    black = {c: replace(i, hu=np.full_like(i.hu, -1200.0)) for c, i in real.items()}
    page.draw_picture(tmp_path / "p.jpg", [("real", real, False), ("none", black, True)], cases, real, 4)
    picture = np.asarray(Image.open(tmp_path / "p.jpg"))
    side = 24 * page.SCALE
    assert picture.shape == (page.HEADER + 2 * (side + page.GAP), page.SIDE + 3 * (side + page.GAP), 3)
    upper, lower = (picture[page.HEADER + r * (side + page.GAP) :][: side // 4, page.SIDE :].mean() for r in (0, 1))
    assert upper > lower + 20  # soft tissue and lung above, air below


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no processor time of finished processes")
def test_a_child_is_timed_with_its_own_children_and_its_exit_code_is_kept(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); sys.exit(3)"
    took = compare.run_child([sys.executable, "-c", nested], tmp_path / "log", 1)
    assert took["code"] == 3 and took["processor_s"] >= 0.4 and took["wall_s"] > 0


def test_scrambled_images_are_the_same_cubes_elsewhere():
    image = np.arange(8 * 8 * 8, dtype=np.float32).reshape(8, 8, 8)
    scrambled = measures.scramble(image, 4, np.random.default_rng(1))
    assert not np.array_equal(scrambled, image) and np.array_equal(np.sort(scrambled.ravel()), image.ravel())
    corner = scrambled[:4, :4, :4]
    assert any(
        np.array_equal(corner, image[i : i + 4, j : j + 4, k : k + 4]) for i in (0, 4) for j in (0, 4) for k in (0, 4)
    )


def test_a_method_that_is_no_nearer_than_scrambled_images_does_not_pass():
    own = {"row": "anatomy", "kind": "ours", "mmd2": {"value": 0.2, "low": 0.1, "high": 0.3}}
    for low, passes in ((0.25, False), (0.35, True)):
        fidelity = {"rows": [own], "verdicts": {"anatomy": {"mmd2_below_all": True}}}
        measures.hold_against_scrambled(fidelity, {"row": "anatomy", "label": "x", "mmd2": {"low": low}})
        assert fidelity["verdicts"]["anatomy"]["mmd2_below_all"] is passes
        assert fidelity["rows"][-1]["row"] == "scrambled" and fidelity["rows"][-1]["kind"] == "no-skill"


def test_what_one_request_yields_is_told_from_the_records():
    import joint_scatter

    asked = {"volume_mm3": 100_000.0, "center_r_mm": 0.0, "center_a_mm": 0.0, "center_s_mm": 0.0}
    records = []
    for volume, place in ((100_000.0, 3.0), (25_000.0, 5.0), (400_000.0, 40.0), (0.0, 0.0)):
        made = {**asked, "volume_mm3": volume, "center_s_mm": place, "sphericity": 0.7}
        records.append({"settings": {"tumour": {"asked": asked}}, "measured": made if volume else None})
    lines = joint_scatter.summary_lines(records)
    assert lines[0] == "4 volumes, 1 without a tumour"
    assert "asked 100 ml; least 25, median 100, largest 400 ml" in lines[1]
    assert "factor of 2.52 (geometric mean), by more than 2 in 2 of 3" in lines[2]  # 16^(1/3)
    assert lines[3] == "place: off by 5 mm (median), at most 40 mm"
