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
    assert store.finished("ab12") is None
    assert store.publish(folder, item(), files, {"seconds": 1.0})
    found = store.finished("ab12", checksums=True)
    assert sorted(p.name for p in found.folder.iterdir()) == ["item.json", "v.json", "v.nii.gz"]
    assert found.bytes == 12 and found.record["seed"] == 5
    assert store.failure("ab12") is None, "the failure of before is still told"
    assert list(store.all_keys()) == ["ab12"] and not folder.exists()
    assert is_batch(tmp_path) and {p.name for p in batch_files(tmp_path)} == {"item.json", "v.json", "v.nii.gz"}


def test_of_many_that_make_one_item_the_first_publishes_it(tmp_path):
    store, won = Store(tmp_path), []
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
    found = store.finished("ab12", checksums=True)
    assert found.record["made"] == {"by": winner}
    assert {p.read_text() for p in found.folder.glob("v.*")} == {f"voxels {winner}"}
    store.clear_work()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["volumes"]


@pytest.mark.parametrize("damage", ["longer", "gone", "same size", "no record", "odd record", "other key"])
def test_a_damaged_item_is_noticed_and_put_aside(tmp_path, damage):
    store = Store(tmp_path)
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
    assert (store.finished("ab12") is not None) == (damage == "same size"), "without reading, only sizes are compared"
    assert store.finished("ab12", checksums=True) is None
    assert store.put_aside_damaged("ab12") and not store.put_aside_damaged("ab12")
    folder, files = staged(store, "u")
    assert store.publish(folder, item(), files, {})
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_record_cannot_lead_out_of_its_folder(tmp_path):
    store = Store(tmp_path)
    folder, files = staged(store, "t")
    store.publish(folder, item(), files, {})
    record = store.folder_of("ab12") / "item.json"
    content = json.loads(record.read_text())
    (tmp_path / "outside").write_text("voxels")
    content["files"]["volume"]["name"] = "../../../outside"
    record.write_text(json.dumps(content))
    assert store.finished("ab12") is None


def test_another_batch_in_the_folder_is_refused_with_what_differs(tmp_path):
    store = Store(tmp_path)
    store.begin(DESCRIPTION, resume=False, shared=False)
    with pytest.raises(BadInput, match="holds this batch already, 0 volumes.*"):
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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"form": "other"}'])
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


def test_a_full_disk_is_told_from_other_errors():
    full, other = OSError(28, "No space left on device"), OSError(5, "Input/output error")
    for error, expected in ((full, True), (other, False)):
        try:
            raise writing_error(error, Path("x")) from error
        except RunFailed as known:
            assert is_disk_full(known) is expected
