"""Released models are listed, installed with their licence, and imported; what the child process says is played."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from panel_harness import ROOT, Harness, shipped_model, widths
from released_fakes import NON_COMMERCIAL, available, ct_model, entry

OPEN = {"spdx": "CC-BY-4.0", "name": "CC BY 4.0", "url": "", "permitted_use": "Commercial and non-commercial use."}
REFUSED = {
    "event": "error",
    "kind": "model",
    "message": "The server refuses 'model.pt' (403)",
    "hint": "Ask for access at https://example.org/x/y, and give --token-file FILE.",
}
DONE = {"id": "some-mr", "version": "1.0.0", "folder": "/x"}
# Words of the machine room. They may be in logs and under Advanced.
UI = ROOT / "SynthDiffusion" / "Resources" / "UI"
JARGON = re.compile(r"latent|controlnet|checkpoint|safetensors|autoencoder", re.IGNORECASE)


def progress(done: int, total: int, **more) -> dict:
    return {"event": "progress", "stage": "download", "step": done, "total": total, "message": "controlnet.pt"} | more


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    made = Harness(standin.scene, ModelPanel)
    engine = made.session.engine
    engine.available = (available(), available(id="open-ct", name="Open CT", license=OPEN, gated=False, bytes=None))
    engine.presets = ("medlord-x4", "many-ct")
    made.setModels(shipped_model(), ct_model())
    made.ui.libraryBox.collapsed = False
    yield made
    made.close()
    made.session.folders.removeAll()


class Commands:
    """Plays child processes: prints what the test wants, and remembers with what they were started."""

    def __init__(self, engine, folder: Path) -> None:
        self.started: list[list[str]] = []
        self.answers: list[tuple[list, int, str]] = []
        self._folder = folder
        engine.command = self._command
        engine.environment = lambda: dict(os.environ)

    def answer(self, *lines: dict, code: int = 0, error: str = "", seconds: float = 0.0) -> None:
        """What the next one does: prints lines, waits, complains, and ends."""
        self.answers.append((lines, code, error, seconds))

    def _command(self, *arguments: str) -> list[str]:
        if arguments[:3] == ("SynthDiffusionLib", "models", "list"):
            lines, code, error, seconds = [{"models": [], "available": [entry(installed=True)]}], 0, "", 0.0
        else:
            self.started.append(list(arguments))
            lines, code, error, seconds = self.answers.pop(0)
        program = (
            f"import sys, time\nfor line in {[json.dumps(line) for line in lines]!r}: print(line, flush=True)\n"
            f"time.sleep({seconds})\nprint({error!r}, file=sys.stderr)\nsys.exit({code})"
        )
        return [sys.executable, "-c", program]


@pytest.fixture
def commands(harness, tmp_path):
    return Commands(harness.session.engine, tmp_path)


def ended(harness, standin) -> None:
    standin.wait(lambda: not harness.panel.library.busy, 20, "the end")


def visible(harness, widget) -> bool:
    return widget.isVisibleTo(harness.panel.widget)


def pick(box, data) -> None:
    box.setCurrentIndex(box.findData(data))
    box._obj.activated.emit(box.findData(data))


# What there is


def test_what_can_be_installed_is_listed_with_its_licence(harness):
    ui = harness.ui
    box = ui.availableSelector
    assert [box.itemText(n) for n in range(box.count)] == ["Some MR (not installed)", "Open CT (not installed)"]
    text = ui.availableLabel.text
    for part in ("MR of the brain", "NVIDIA One-Way Noncommercial License", "not for commercial use", "3.1 GB"):
        assert part in text
    assert "Access must be asked for" in text and "Not installed" in text
    pick(box, "open-ct")
    text = ui.availableLabel.text
    assert "CC BY 4.0" in text and "commercial" not in text and "Access" not in text and "GB" not in text
    harness.session.engine.available = (available(installed=True),)
    harness.panel.refresh()
    assert box.itemText(0) == "Some MR (installed)" and not ui.downloadButton.enabled
    harness.session.engine.available = ()
    harness.panel.refresh()
    assert not visible(harness, ui.availableWidget) and visible(harness, ui.installButton)


@pytest.mark.parametrize(
    ("name", "use", "expected"),
    [
        ("CC BY-NC 4.0", "", True),
        ("CC BY 4.0", "Research and teaching, no commercial use.", True),
        ("X", "For non-commercial research.", True),
        ("X", "Commercial and non-commercial use.", False),
        ("NCLS", "Use, also commercial.", False),
        ("NVIDIA Open Model License", "Use, also commercial, is allowed.", False),
    ],
)
def test_a_non_commercial_licence_is_recognised(slicer_python, name, use, expected):
    from SynthDiffusionPanels.modelTexts import isNonCommercial

    assert isNonCommercial({"name": name, "spdx": "", "permitted_use": use}) is expected


def test_markup_of_a_catalogue_is_shown_as_text(harness):
    harness.session.engine.available = (available(description="<img src=x> & more", name="<b>x</b>"),)
    harness.panel.refresh()
    assert "&lt;img src=x&gt; &amp; more" in harness.ui.availableLabel.text


def test_the_real_catalogue_is_listed(standin, tmp_path, monkeypatch):
    """`synthdiffusion models list --json` itself: every entry has what the panel and the licence dialog show."""
    from SynthDiffusionPanels.LicenceDialog import isWebAddress
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "models"))
    harness = Harness(standin.scene, ModelPanel)
    harness.session.engine.refreshModels()
    standin.wait(lambda: harness.session.engine.models, 60, "the models")
    harness.panel.refresh()
    found = {model.id: model for model in harness.session.engine.available}
    assert {"medlord-luna", "maisi-rflow-ct", "maisi-rflow-mr"} <= found.keys()
    assert "maisi-rflow" in harness.session.engine.presets
    for model in found.values():
        assert model.name and model.description and model.licence["name"] and model.licence["permitted_use"]
        assert isWebAddress(model.licence["url"]) and not model.installed
    assert found["maisi-rflow-mr"].gated
    harness.ui.libraryBox.collapsed = False
    assert not any(widths(harness.panel, tmp_path, "catalogue").values())
    for modelId in found:
        pick(harness.ui.availableSelector, modelId)
        assert not JARGON.search(harness.ui.availableLabel.text), harness.ui.availableLabel.text
    harness.close()


# Installing


def test_declining_the_licence_starts_nothing_and_says_so(harness, standin, commands):
    seen = []

    def decline(dialog):
        import slicer.util

        seen.append(slicer.util.findChild(dialog, "licenceText").text)
        slicer.util.findChild(dialog, "declineButton").click()

    standin.dialogs.answer(decline)
    harness.ui.downloadButton.click()
    for part in (NON_COMMERCIAL["name"], "Not for commercial use.", NON_COMMERCIAL["permitted_use"], "3.1 GB"):
        assert part in seen[0]
    assert 'href="https://example.org/licence?a=1&amp;b=2"' in seen[0]
    assert commands.started == [] and not harness.panel.library.busy
    assert harness.ui.libraryLabel.text.endswith("was declined. Nothing was downloaded or changed.")


def test_a_model_is_downloaded_listed_anew_and_chosen(harness, standin, commands):
    harness.ui.availableSelector.setCurrentIndex(0)
    commands.answer(progress(1_000_000_000, 4_000_000_000, eta_s=600.0), DONE, seconds=1.0, error="a library says so")
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    ui = harness.ui
    assert not ui.downloadButton.enabled and not ui.importButton.enabled and visible(harness, ui.libraryCancelButton)
    standin.wait(lambda: "1.0 GB" in ui.libraryLabel.text, 20, "progress")
    assert ui.libraryLabel.text == "Installing 'Some MR' ...\n1.0 GB of 4.0 GB, about 10 min left"
    assert not JARGON.search(ui.libraryLabel.text)
    assert ui.libraryProgress.value == ui.libraryProgress.maximum / 4
    ended(harness, standin)
    (arguments,) = commands.started
    expected = ["models", "install", "some-mr", "--accept-licence", "--events", "--json"]
    assert arguments == ["SynthDiffusionLib", *expected]
    assert ui.libraryLabel.text == "Installed 'some-mr'." and not visible(harness, ui.libraryProgress)
    standin.wait(lambda: harness.session.engine.available[0].installed, 20, "the list")
    harness.session.engine.models = (shipped_model(), shipped_model(id="some-mr"))
    harness.session.engine.changed.emit()
    assert harness.parameters.modelId == "some-mr"
    assert not visible(harness, ui.libraryLogText)
    ui.libraryLogButton.click()
    assert visible(harness, ui.libraryLogText) and ui.libraryLogText.plainText == "a library says so"


def test_a_refusal_asks_for_a_token_and_tries_again_with_it(harness, standin, commands, tmp_path):
    commands.answer(REFUSED, code=2)
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    assert not visible(harness, harness.ui.tokenWidget)
    ended(harness, standin)
    text = harness.ui.tokenLabel.text
    assert 'href="https://example.org/x/y"' in text and "(403)" in text and "--" not in text
    assert visible(harness, harness.ui.tokenWidget) and "--" not in harness.ui.libraryLabel.text
    for path in ("first.txt", "second.txt"):
        commands.answer(REFUSED, code=2)
        standin.dialogs.answer(str(tmp_path / path))
        harness.ui.tokenButton.click()
        ended(harness, standin)
        options = ["--accept-licence", "--token-file", str(tmp_path / path), "--events", "--json"]
        assert commands.started[-1] == ["SynthDiffusionLib", "models", "install", "some-mr", *options]
    standin.dialogs.answer("")
    harness.ui.tokenButton.click()  # no file chosen
    assert len(commands.started) == 3 and visible(harness, harness.ui.tokenWidget)
    pick(harness.ui.availableSelector, "open-ct")
    assert not visible(harness, harness.ui.tokenWidget)


@pytest.mark.parametrize(
    ("lines", "error", "said", "token"),
    [
        ([], "synthdiffusion: error: The disk is full. Free some space.", "The disk is full. Free some space.", False),
        ([], "synthdiffusion: error: x (401). Give --token-file F.", "x (401). Give 'Choose a token file...'.", True),
        ([{"event": "error", "kind": "model", "message": "It broke", "hint": "Again"}], "", "It broke. Again", False),
        ([], "", "It ended without a message.", False),
    ],
)
def test_a_failure_says_what_the_engine_says(harness, standin, commands, lines, error, said, token):
    commands.answer(*lines, code=2, error=error)
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    ended(harness, standin)
    assert harness.ui.libraryLabel.text == said
    assert visible(harness, harness.ui.tokenWidget) is token


def test_a_download_can_be_cancelled(harness, standin, commands):
    commands.answer(progress(5_000_000, 9_000_000), seconds=60)
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    standin.wait(lambda: "5 MB of 9 MB" in harness.ui.libraryLabel.text, 20, "progress")
    harness.ui.libraryCancelButton.click()
    ended(harness, standin)
    assert harness.ui.libraryLabel.text == "Canceled. The next try goes on with what was downloaded."
    assert harness.ui.downloadButton.enabled


def test_a_folder_takes_the_place_of_the_network(harness, standin, commands, tmp_path):
    standin.dialogs.answer("")
    harness.ui.fromFolderButton.click()  # no folder chosen: no licence is asked for
    commands.answer(DONE)
    standin.dialogs.answer(str(tmp_path), "Accept")
    harness.ui.fromFolderButton.click()
    ended(harness, standin)
    options = ["--accept-licence", "--from", str(tmp_path), "--events", "--json"]
    assert commands.started == [["SynthDiffusionLib", "models", "install", "some-mr", *options]]


def test_closing_in_the_middle_of_a_download_leaves_nothing(harness, standin, commands):
    before = standin.counts()
    commands.answer(progress(1, 2), seconds=60)
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    harness.panel.close()
    assert standin.counts()["processes"] == before["processes"]


@pytest.fixture
def hub():
    """The engine's own test server, which gives files to those who have its token only."""
    spec = importlib.util.spec_from_file_location("hub_server", ROOT / "Testing" / "Engine" / "hub_server.py")
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    with server.running_hub() as made:
        made.token = "right"
        yield made


def test_the_real_engine_is_refused_by_a_server_and_let_in_with_a_token(standin, tmp_path, monkeypatch, hub):
    """The way of a user without access, up to files that have come but are no model."""
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    catalogue = json.loads((ROOT / "Resources" / "Catalogue" / "medlord-luna.json").read_text(encoding="utf-8"))
    for file in catalogue["files"]:
        hub.files[f"{file['repo']}/{file['path']}"] = b"no weights" * 1000
    harness = Harness(standin.scene, ModelPanel)
    harness.session.engine.refreshModels()
    standin.wait(lambda: harness.session.engine.available, 60, "the models")
    harness.panel.refresh()
    harness.ui.libraryBox.collapsed = False
    pick(harness.ui.availableSelector, "medlord-luna")
    standin.dialogs.answer("Accept")
    harness.ui.downloadButton.click()
    for token, code in (("wrong", "401"), ("right", "403")):
        standin.wait(lambda: not harness.panel.library.busy, 60, "the answer")
        assert f"({code})" in harness.ui.libraryLabel.text and "--" not in harness.ui.libraryLabel.text
        assert "HF_TOKEN" not in harness.ui.libraryLabel.text and visible(harness, harness.ui.tokenWidget)
        (tmp_path / f"{token}.txt").write_text(token, encoding="utf-8")
        standin.dialogs.answer(str(tmp_path / f"{token}.txt"))
        harness.ui.tokenButton.click()
    standin.wait(lambda: not harness.panel.library.busy, 60, "the files")
    assert harness.panel.library._command.downloaded and not visible(harness, harness.ui.tokenWidget)
    assert harness.ui.libraryLabel.text and "--" not in harness.ui.libraryLabel.text
    assert not (tmp_path / "models" / "medlord-luna").exists()
    harness.close()


# Importing


def fill(standin, files, modelId: str, like: str | None = None, button: str = "okButton"):
    """The user fills the dialog; returns what it said."""
    said = []

    def do(dialog):
        import slicer.util

        ui = slicer.util.childWidgetVariables(dialog)
        assert not ui.okButton.enabled
        for group in files:
            standin.dialogs.answer(tuple(group))
            ui.addButton.click()
        ui.idEdit.text = modelId
        if like is not None:
            ui.likeBox.setCurrentIndex(ui.likeBox.findData(like))
        names = [ui.filesList.item(n).text() for n in range(ui.filesList.count)]
        said.append((ui.problemLabel.text, ui.okButton.enabled, names))
        getattr(ui, button).click()

    standin.dialogs.answer(do)
    return said


def test_files_are_imported_under_a_name(harness, standin, commands):
    commands.answer({"id": "mine-1"})
    said = fill(standin, [["/a/one.pt", "/a/two.pt"], ["/a/two.pt", "/b/three.pt"]], "mine-1")
    harness.ui.importButton.click()
    assert said == [("", True, ["one.pt", "two.pt", "three.pt"])]
    ended(harness, standin)
    files = ["/a/one.pt", "/a/two.pt", "/b/three.pt"]
    assert commands.started == [["SynthDiffusionLib", "models", "import", *files, "--as", "mine-1", "--json"]]
    assert harness.ui.libraryLabel.text.startswith("Imported 'mine-1'.")


def test_what_it_is_made_like_is_passed_on(harness, standin, commands):
    from SynthDiffusionPanels.ImportDialog import likeChoices

    choices = dict(likeChoices(harness.session.engine))
    assert choices == {"Lung nodule CT": "lung-nodule-ct", "Many CT": "many-ct", "medlord-x4 (design)": "medlord-x4"}
    commands.answer(code=2, error="synthdiffusion: error: It does not fit. Leave --like out.")
    fill(standin, [["/a/one.pt"]], "mine", "medlord-x4")
    harness.ui.importButton.click()
    ended(harness, standin)
    assert commands.started[0][-4:] == ["mine", "--like", "medlord-x4", "--json"]
    assert harness.ui.libraryLabel.text == "It does not fit. Leave 'Made like' out."


@pytest.mark.parametrize(
    ("files", "modelId", "problem"),
    [
        ([["/a/one.pt"]], "My Model!", "'My Model!' cannot be a name: use small letters, digits and hyphens."),
        ([["/a/one.pt"]], "lung-nodule-ct", "There is a model called 'lung-nodule-ct' already."),
        ([], "mine", "Add at least one file."),
        ([[]], "mine", "Add at least one file."),
    ],
)
def test_what_cannot_be_imported_is_said_in_the_dialog(harness, standin, commands, files, modelId, problem):
    said = fill(standin, files, modelId, button="cancelButton")
    harness.ui.importButton.click()
    assert said[0][:2] == (problem, False) and commands.started == [] and harness.ui.libraryLabel.text == ""


def test_a_file_can_be_taken_out_again(harness, standin, commands):
    commands.answer({"id": "mine"})

    def do(dialog):
        import slicer.util

        ui = slicer.util.childWidgetVariables(dialog)
        standin.dialogs.answer(("/a/one.pt", "/a/two.pt"))
        ui.addButton.click()
        assert not ui.takeOutButton.enabled
        ui.filesList.setCurrentRow(0)
        ui.takeOutButton.click()
        ui.idEdit.text = "mine"
        ui.okButton.click()

    standin.dialogs.answer(do)
    harness.ui.importButton.click()
    ended(harness, standin)
    assert commands.started[0][3:5] == ["/a/two.pt", "--as"]


@pytest.mark.parametrize("file", sorted(path.name for path in UI.glob("*.ui")))
def test_the_panels_speak_without_jargon(file):
    """Texts, tooltips and placeholders of everything outside of Advanced."""
    root = ET.parse(UI / file).getroot()
    advanced = {id(text) for box in root.iterfind(".//widget[@name='advancedBox']") for text in box.iter("string")}
    texts = [text.text or "" for text in root.iter("string") if id(text) not in advanced]
    assert texts and [text for text in texts if JARGON.search(text)] == []


def test_the_dialogs_fit_a_narrow_screen(harness, tmp_path):
    import slicer.util
    from panel_harness import resource_path
    from standin.screenshots import screenshot

    from SynthDiffusionPanels.LicenceDialog import licenceMarkup

    long = NON_COMMERCIAL | {"url": "https://example.org/" + "/".join(["a-part-of-the-address"] * 8)}
    dialog = slicer.util.loadUI(resource_path("UI/LicenceDialog.ui"))
    slicer.util.findChild(dialog, "licenceText").text = licenceMarkup(available(license=long))
    assert screenshot(dialog, tmp_path / "licence.png", 400).width() <= 400
    dialog = slicer.util.loadUI(resource_path("UI/ImportDialog.ui"))
    assert screenshot(dialog, tmp_path / "import.png", 400).width() <= 400


@pytest.mark.parametrize(
    ("model", "sentences"),
    [
        (
            "hippocampus-mr",
            ["0.88 (anterior hippocampus alone)", "posterior hippocampus, with its surroundings: 0.92."],
        ),
        (
            "limb-tumour-mr",
            ["segmentation fit, where 1 is as on real images: 0.94.", "0.94 (volume), 0.21 (roundness)"],
        ),
        ("limb-tumour-ct", ["0.50 (tumour alone), 0.63 (with its surroundings)"]),
        ("lung-nodule-ct", ["1.00 (nodule alone)", "A flat picture with a blurred blob gets 1.07"]),
    ],
)
def test_what_a_shipped_model_achieves_is_said(slicer_python, model, sentences):
    """The figures are those of the packages' cards."""
    from SynthDiffusionPanels.modelTexts import qualityText

    text = qualityText(json.loads((ROOT / "Resources" / "Models" / model / "model.json").read_text(encoding="utf-8")))
    assert all(sentence in text for sentence in sentences), text
