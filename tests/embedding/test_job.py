"""The whole job on Ray: what is stored, what is left out, what is not done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from ovseg_ray.cli import main
from ovseg_ray.data import open_dataset
from ovseg_ray.data.squares import square
from ovseg_ray.embedding import EmbedConfig, embed, job
from ovseg_ray.embedding.embedder import Embedder
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.sources import ContentHash, Source, content_of
from ovseg_ray.feature_store.store import FeatureStore
from ovseg_ray.feature_store.vectors import open_vectors

CONFIG = EmbedConfig.model_validate({"squares": {"size": 32}, "encoder": {"stride": 8}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(150):
        image = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(image).save(root / f"{index:03d}.png")
    whole = (root / "070.png").read_bytes()
    (root / "070.png").write_bytes(whole[: len(whole) // 2])
    (root / "071.png").write_text("no picture")
    return root


def ids(store: FeatureStore) -> list[str]:
    return store.image_ids


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_every_image_once_unreadable_ones_named_and_nothing_done_twice(folder: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(folder), tmp_path / "store"
    store = embed(dataset, out, CONFIG, workers=2)
    assert store.info.images == store.info.rows == 148
    assert [Path(name).stem for name, _ in store.info.failed] == ["070", "071"]
    names = [row["image_id"] for row in dataset.index.to_pylist() if Path(row["image_path"]).stem not in ("070", "071")]
    assert ids(store) == names
    assert store.info.features == open_vectors(out).fingerprint()
    content = ContentHash()
    for row in dataset.index.to_pylist():
        broken = Path(row["image_path"]).stem in ("070", "071")
        content.update(
            [Source(row["image_id"], "", None if broken else content_of([Path(row["image_path"]).read_bytes()]))]
        )
    assert store.info.content == content.hexdigest()

    picture = np.asarray(Image.open(folder / "003.png"))
    vectors, maps = Embedder(CONFIG)(square(picture, 32)[None])
    row = store.rows[names[3]]
    np.testing.assert_allclose(store.vectors()[row], vectors[0], atol=1e-5)
    np.testing.assert_allclose(store.features(row), maps[0], atol=2e-3, rtol=2e-3)

    # as after a kill: no manifest, one part gone, another half written
    before = store.vectors()
    parts = store.files
    assert len(parts) == 3
    (out / "manifest.json").unlink()
    parts[1].rename(out / "parts/.part-000001.parquet.1234.partial")
    with pytest.raises(UserError, match="not finished"):
        FeatureStore.open(out)
    written = parts[0].stat().st_mtime_ns
    again = embed(dataset, out, CONFIG, workers=1)
    assert parts[0].stat().st_mtime_ns == written
    assert ids(again) == names
    assert again.info.content == store.info.content
    np.testing.assert_allclose(again.vectors(), before, atol=1e-6)

    with pytest.raises(UserError, match="another job \\(dense differs\\)"):
        embed(dataset, out, CONFIG.model_copy(update={"dense": "int8"}))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_five_crops_as_bytes_with_masks(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rng = np.random.default_rng(1)
    for kind in ("images", "masks"):
        (data / kind / "train").mkdir(parents=True)
    (data / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(data / f"images/train/{index}.png")
        Image.fromarray(rng.integers(0, 3, (64, 96), dtype=np.uint8)).save(data / f"masks/train/{index}.png")
    config = CONFIG.model_copy(update={"dense": "int8", "squares": CONFIG.squares.model_copy(update={"crops": "five"})})
    store = embed(open_dataset(data), tmp_path / "store", config)
    assert (store.info.images, store.info.rows) == (3, 15)
    assert [name.rpartition("#")[2] for name in ids(store)] == list("01234") * 3
    assert list(store.info.labels) == ["a", "b", "c"]
    assert 0 < store.info.error < 0.02
    image, mask = (np.asarray(Image.open(data / f"{kind}/train/1.png")) for kind in ("images", "masks"))
    row = next(row for name, row in store.rows.items() if name.endswith("1#3"))
    _, maps = Embedder(config)(square(image[32:, 48:], 32)[None])
    place = np.linalg.norm(store.features(row) - maps[0], axis=0) / np.linalg.norm(maps[0], axis=0)
    assert place.max() <= store.info.error + 1e-3
    assert np.array_equal(store.mask(row), square(mask[32:, 48:], 32, "nearest"))  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_without_one_readable_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("nothing")
    for _ in range(2):  # told again, not taken for done
        with pytest.raises(
            UserError, match=r"none of its 1 images can be read \(.*a\.png: not an image.*mend them"
        ) as told:
            embed(open_dataset(tmp_path / "in"), tmp_path / "out", CONFIG)
        assert "\n" not in str(told.value)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "in/a.png")
    assert embed(open_dataset(tmp_path / "in"), tmp_path / "out", CONFIG).info.rows == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "holds no images; give another data set or split"), ([3, 4, 3], "image id '003' stands twice; give every")],
)
def test_no_images_and_two_of_one_name_are_told_before_anything_is_written(
    rows: list[int], message: str, folder: Path, tmp_path: Path
) -> None:
    whole = open_dataset(folder)
    dataset = dataclasses.replace(whole, index=whole.index.take(rows) if rows else whole.index.slice(0, 0))
    with pytest.raises(UserError, match=message) as told:
        embed(dataset, tmp_path / "out", CONFIG)
    assert str(told.value).startswith(str(folder))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_parts_stay_small() -> None:
    for size, crops in ((224, "none"), (518, "five"), (4096, "five")):
        squares = {"size": size, "crops": crops}
        config = EmbedConfig.model_validate({"encoder": {"name": "dino"}, "squares": squares})
        images = job.part_images(config)
        assert images == 1 or images * config.squares.squares * size * size * 3 <= 32 << 20
    assert job.part_images(CONFIG) == 64


KILLED = """
import sys
from pathlib import Path
from ovseg_ray.cli import main
from ovseg_ray.data import open_dataset
from ovseg_ray.embedding import EmbedConfig, embed
from ovseg_ray.cluster import connect
config = EmbedConfig.model_validate({"squares": {"size": 32}, "encoder": {"stride": 8}})
with connect(sys.argv[3]):
    embed(open_dataset(sys.argv[1]), Path(sys.argv[2]), config, workers=1)
"""


def written(out: Path) -> dict[str, int]:
    """Parts that are there, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}


def wait_for(parts: int, out: Path, running: Callable[[], bool]) -> int:
    """Until there are so many parts, or nobody writes any more; how many there are."""
    deadline = time.monotonic() + 120
    while (known := len(written(out))) < parts and running() and time.monotonic() < deadline:
        time.sleep(0.002)
    return known


def assert_whole(out: Path, parts: int) -> None:
    store = FeatureStore.open(out)
    assert len(store.files) == parts
    assert store.info.images == len(set(ids(store))) == pq.read_table(out / "parts").num_rows == 148
    assert [Path(name).stem for name, _ in store.info.failed] == ["070", "071"]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_loses_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(folder), str(out), ray.get_runtime_context().gcs_address]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(1, out, lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = written(out)
    assert first
    assert not (out / "manifest.json").exists()
    embed(open_dataset(folder), out, CONFIG, workers=1)
    assert_whole(out, parts=3)
    assert {name: written(out)[name] for name in first} == first


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_actors_and_a_lost_node_lose_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MOST_PART_IMAGES", 4)
    out, parts = tmp_path / "store", -(-150 // 4)
    address = ray.get_runtime_context().gcs_address
    alive = len(live_nodes())
    start = ["-m", "ray.scripts.scripts", "start", "--address", address, "--num-cpus", "4", "--block"]
    node = subprocess.Popen([sys.executable, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(live_nodes()) == alive:
            assert node.poll() is None, "the second node did not start"
            time.sleep(0.05)
        job_of_four = functools.partial(embed, open_dataset(folder), out, CONFIG, workers=4)
        thread = threading.Thread(target=job_of_four, daemon=True)
        thread.start()
        wait_for(3, out, thread.is_alive)
        there, everywhere = actors_below(node.pid), actors_below(os.getpid())
        here = [process for process in everywhere if process not in there]
        assert here
        assert there, "no actor is on the second node"
        os.kill(here[0], signal.SIGKILL)
        at_loss = wait_for(12, out, thread.is_alive)
        for process in below(node.pid):
            # the raylet says goodbye: without it Ray takes a quarter of a minute to believe that the node is gone
            process.send_signal(signal.SIGTERM if process.name() == "raylet" else signal.SIGKILL)
        thread.join(200)
    finally:
        node.terminate()
        node.wait(30)
    assert not thread.is_alive()
    assert at_loss < parts  # it was at work when the node went
    assert_whole(out, parts)


def live_nodes() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def below(pid: int) -> list[Any]:
    """Descendants of a process."""
    import psutil  # comes with Ray

    return list(psutil.Process(pid).children(recursive=True))


def actors_below(pid: int) -> list[int]:
    """Those of them that hold the backbone; whatever ends meanwhile has none."""
    found = []
    for process in below(pid):
        with contextlib.suppress(Exception):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_mended_image_is_taken_in_by_the_same_command(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photos / f"{index}.png")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:50])
    before = embed(open_dataset(photos), out, CONFIG)
    assert before.info.rows == 2
    before.features(0)  # makes the maps
    kept = before.files[0].stat().st_mtime_ns
    assert embed(open_dataset(photos), out, CONFIG).files[0].stat().st_mtime_ns == kept  # still broken: nothing is done
    (photos / "1.png").write_bytes(whole)
    after = embed(open_dataset(photos), out, CONFIG)
    assert (after.info.rows, after.info.failed) == (3, ())
    assert after.features(2).shape == before.features(0).shape


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("finished", [True, False])
def test_an_image_replaced_under_its_name_is_embedded_again(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MOST_PART_IMAGES", 1)
    photos, out = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photos / f"{index}.png")
    before = embed(open_dataset(photos), out, CONFIG, workers=1)
    before.features(0)  # makes the maps
    vectors, kept = before.vectors(), written(out)
    if not finished:
        (out / "manifest.json").unlink()
        before.files[2].unlink()
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photos / "1.png")
    after = embed(open_dataset(photos), out, CONFIG, workers=1)
    assert [bool(same) for same in (after.vectors() == vectors).all(1)] == [True, False, True]
    assert after.info.content != before.info.content
    assert after.info.features != before.info.features
    assert written(out)["part-000000.parquet"] == kept["part-000000.parquet"]
    np.testing.assert_allclose(
        after.features(1).mean((1, 2)) @ after.vectors()[1], np.linalg.norm(after.features(1).mean((1, 2))), rtol=1e-3
    )  # maps are those of the new image


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_store_from_before_contents_were_recorded_is_still_one(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "0.png")
    embed(open_dataset(photos), out, CONFIG, workers=1)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["content"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    part = next(out.glob("parts/*.parquet"))
    table = pq.read_table(part)
    said = {b"ovseg_ray.failed": json.dumps({"failed": [], "error": 0.0}).encode()}
    pq.write_table(table.replace_schema_metadata(said), part)
    assert embed(open_dataset(photos), out, CONFIG).info.content is None
    (out / "manifest.json").unlink()  # as if it had been stopped before its end
    assert embed(open_dataset(photos), out, CONFIG).info.content is None


def test_what_can_be_told_without_ray_is_told_before_it_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ovseg_ray.cluster.connect", connect)
    other, listed, empty, new = (tmp_path / name for name in ("other", "listed", "empty", "new"))
    for place in (other, listed / "images/train", listed / "masks/train", empty):
        place.mkdir(parents=True)
    (other / "notes.txt").write_text("mine")
    (listed / "classes.json").write_text('{"classes": ["a"]}')
    (listed / "train.txt").write_text("000\n000\n")
    for kind in ("images", "masks"):
        (listed / kind / "train/000.png").write_bytes((folder / "000.png").read_bytes())
    for data, out, words, message in [
        (folder, other, [], "is there and no feature store"),
        (folder, new, ["--weights", str(tmp_path / "none.safetensors")], "no such weights file"),
        (listed, new, [], f"{listed / 'train.txt'}: image 000.png is listed twice; remove one of the entries"),
        (empty, new, [], "no data set found"),
    ]:
        assert main(["embed", str(data), str(out), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "new").exists()
