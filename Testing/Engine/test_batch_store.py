"""The folder of a batch: an item is there once and whole, whoever makes it and however that ends."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.store import Store, batch_files, is_batch, is_disk_full
from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.volumes.atomic import writing_error

DESCRIPTION = {
    "software": {"name": "SynthDiffusion", "version": "1"},
    "model": {"id": "m", "version": "1", "files": {"a": "0"}},
    "settings": {"steps": 3, "sampler": None},
    "seed": 1,
    "same_seeds": False,
}


def item(key: str = "ab12") -> Item:
    return Item(key, "case", 0, 5, Path("/masks/case.nii.gz"), None, {"segmentation_sha256": "0" * 64})


def begun(folder: Path) -> Store:
    """The folder of a batch that has been begun."""
    store = Store(folder)
    store.begin(DESCRIPTION, resume=True, shared=True)
    return store


def staged(store: Store, token: str, text: str = "voxels") -> tuple[Path, dict[str, Path]]:
    folder = store.work_folder(token)
    files = {"volume": folder / "v.nii.gz", "provenance": folder / "v.json"}
    for path in files.values():
        path.write_text(text)
    return folder, files


def test_a_published_item_is_there_whole_and_nothing_else_is_left(tmp_path):
    store = Store(tmp_path)
    store.begin(DESCRIPTION, resume=False, shared=False)
    store.fail(item(), "internal", "before", "", 1)
    folder, files = staged(store, "t")
    assert store.finished(item()) is None
    assert store.publish(folder, item(), files, {"seconds": 1.0})
    found = store.finished(item(), checksums=True)
    assert sorted(p.name for p in found.folder.iterdir()) == ["item.json", "v.json", "v.nii.gz"]
    assert found.bytes == 12 and found.record["seed"] == 5
    assert store.failure("ab12") is None, "the failure of before is still told"
    assert list(store.all_keys()) == ["ab12"] and not folder.exists()
    assert is_batch(tmp_path) and {p.name for p in batch_files(tmp_path)} == {"item.json", "v.json", "v.nii.gz"}


def test_of_many_that_make_one_item_the_first_publishes_it(tmp_path):
    store, won = begun(tmp_path), []
    begin = threading.Barrier(8)

    def publish(number: int) -> None:
        folder, files = staged(store, f"t{number}", f"voxels {number}")
        begin.wait()
        if store.publish(folder, item(), files, {"by": number}):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    (winner,) = won
    found = store.finished(item(), checksums=True)
    assert found.record["made"] == {"by": winner}
    assert {p.read_text() for p in found.folder.glob("v.*")} == {f"voxels {winner}"}
    store.clear_work()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["batch.json", "volumes"]


def staged_item(store: Store) -> tuple[Path, Item, dict[str, Path]]:
    folder, files = staged(store, "other")
    return folder, item(), files


@pytest.mark.parametrize(
    "damage",
    [
        "longer",
        "gone",
        "same size",
        "no record",
        "odd record",
        "other key",
        "other seed",
        "other mask",
        "no made",
        "no files",
    ],
)
def test_a_damaged_item_is_noticed_and_put_aside(tmp_path, damage):
    store = begun(tmp_path)
    folder, files = staged(store, "t")
    store.publish(folder, item(), files, {})
    place = store.folder_of("ab12")
    match damage:
        case "longer":
            (place / "v.json").write_text("voxels and more")
        case "gone":
            (place / "v.nii.gz").unlink()
        case "same size":
            (place / "v.nii.gz").write_text("VOXELS")
        case "no record":
            (place / "item.json").unlink()
        case "odd record":
            (place / "item.json").write_text('{"form": "synthdiffusion-batch-item-1", "key": "ab12", "files": [1]}')
        case "other key":
            text = (place / "item.json").read_text()
            (place / "item.json").write_text(text.replace("ab12", "ab13"))
        case "other seed" | "other mask" | "no made" | "no files":
            content = json.loads((place / "item.json").read_text())
            new = {"seed": 6} if damage == "other seed" else {"inputs": {"segmentation_sha256": "1" * 64}}
            new = {"made": None} if damage == "no made" else {"files": {}} if damage == "no files" else new
            (place / "item.json").write_text(json.dumps(content | new))
    assert (store.finished(item()) is not None) == (damage == "same size"), "without reading, only sizes are compared"
    assert store.finished(item(), checksums=True) is None
    assert store.finished_or_cleared(item(), checksums=True) == (None, True)
    assert store.finished_or_cleared(item(), checksums=True) == (None, False)
    folder, files = staged(store, "u")
    assert store.publish(folder, item(), files, {})
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_record_cannot_lead_out_of_its_folder(tmp_path):
    store = begun(tmp_path)
    folder, files = staged(store, "t")
    store.publish(folder, item(), files, {})
    record = store.folder_of("ab12") / "item.json"
    content = json.loads(record.read_text())
    (tmp_path / "outside").write_text("voxels")
    content["files"]["volume"]["name"] = "../../../outside"
    record.write_text(json.dumps(content))
    assert store.finished(item()) is None


def test_another_batch_in_the_folder_is_refused_with_what_differs(tmp_path):
    store = Store(tmp_path)
    store.begin(DESCRIPTION, resume=False, shared=False)
    store.begin(DESCRIPTION, resume=False, shared=False)  # it was cancelled before anything was made
    store.publish(*staged_item(store), {})
    with pytest.raises(BadInput, match="holds this batch already, 1 volumes.*"):
        store.begin(DESCRIPTION, resume=False, shared=False)
    store.begin(DESCRIPTION, resume=True, shared=False)
    store.begin(DESCRIPTION, resume=False, shared=True)
    for change, text in (
        ({"seed": 2}, "'seed' is 1, not 2"),
        ({"settings": {"steps": 4, "sampler": None}}, "'steps' is 3, not 4"),
        ({"settings": {"steps": 3, "sampler": "ddim"}}, "'sampler' is not set, not \"ddim\""),
        ({"model": {"id": "n", "version": "1", "files": {"a": "0"}}}, 'its model is "m", not "n"'),
        ({"model": {"id": "m", "version": "1", "files": {"a": "1"}}}, "the weights of its model are others"),
        ({"software": {"name": "SynthDiffusion", "version": "2"}}, 'version of the software is "1", not "2"'),
    ):
        with pytest.raises(BadInput) as refused:
            store.begin(DESCRIPTION | change, resume=True, shared=True)
        assert text in refused.value.message


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"form": "other"}', '{"form": "synthdiffusion-batch-1", "model": {}, "settings": [1]}']
)
def test_a_damaged_description_is_refused(tmp_path, content):
    (tmp_path / "batch.json").write_text(content)
    with pytest.raises(BadInput, match=r"batch\.json"):
        Store(tmp_path).begin(DESCRIPTION, resume=True, shared=False)


def test_of_drivers_that_begin_at_once_all_go_on_with_one_description(tmp_path):
    begin, refused = threading.Barrier(8), []

    def start(number: int) -> None:
        begin.wait()
        try:
            Store(tmp_path).begin(DESCRIPTION | {"seed": number % 2}, resume=False, shared=True)
        except BadInput:
            refused.append(number % 2)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    there = Store(tmp_path).description()["seed"]
    assert refused == [1 - there] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["batch.json"]


def test_a_folder_of_the_same_name_is_not_the_batch(tmp_path):
    """Such as the place where a disk was mounted: nothing may be written there."""
    (tmp_path / "out").mkdir()
    store = begun(tmp_path / "out")
    folder = tmp_path / "scratch"
    folder.mkdir()
    files = {"volume": folder / "v.nii.gz", "provenance": folder / "v.json"}
    for path in files.values():
        path.write_text("voxels")
    (tmp_path / "out").rename(tmp_path / "unmounted")
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="batch.json"):
        store.publish(folder, item(), files, {})
    with pytest.raises(BadInput, match="batch.json"):
        store.work_folder("t")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_another_driver_publishes_meanwhile_is_not_taken_for_damaged(tmp_path, monkeypatch):
    store = begun(tmp_path)
    looked = Store.finished

    def late(self: Store, wanted: Item, checksums: bool = False):
        found = looked(self, wanted, checksums)
        store.publish(*staged_item(store), {})
        return found

    monkeypatch.setattr(Store, "finished", late)
    assert store.finished_or_cleared(item()) == (None, False)
    assert looked(store, item(), True) is not None


def test_names_that_are_no_text_are_recorded(tmp_path):
    store = begun(tmp_path)
    odd = Item("cd34", "M_ller", 0, 5, Path("/masks/M\udcfcller.nii.gz"), None, {})
    store.fail(odd, "bad_input", "'M\udcfcller.nii.gz' is damaged", "Copy it again.", 1)
    assert store.failure("cd34")["segmentation"] == "M\udcfcller.nii.gz"


def test_a_full_disk_is_told_from_other_errors():
    full, other = OSError(28, "No space left on device"), OSError(5, "Input/output error")
    for error, expected in ((full, True), (other, False)):
        try:
            raise writing_error(error, Path("x")) from error
        except RunFailed as known:
            assert is_disk_full(known) is expected
