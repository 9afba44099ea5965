from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.predict import predict
from ovseg_ray.segmenter import Segmenter


def paint(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    return paths


def test_a_bad_image_is_named_and_the_rest_are_finished(tiny_run: Path, tmp_path: Path) -> None:
    good = paint(tmp_path / "in", 2)
    broken, gone = tmp_path / "in" / "broken.jpg", tmp_path / "in" / "gone.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    summary = predict(tiny_run, [*good, broken, gone], "red, green", tmp_path / "out")
    assert summary.done == 2
    assert [path for path, _ in summary.failures] == [str(broken), str(gone)]
    assert all(path in line and "\n" not in line for path, line in summary.failures)
    expected = Segmenter.load(tiny_run).segment(good[1], "red, green")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "01_ids.png")), expected.label_map)
    assert json.loads((tmp_path / "out" / "01.json").read_text())["labels"] == ["red", "green"]
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_images_of_the_same_name_do_not_overwrite_each_other(tiny_run: Path, tmp_path: Path) -> None:
    paint(tmp_path / "a", 1)
    paint(tmp_path / "b", 1)
    assert predict(tiny_run, [tmp_path / "a", tmp_path / "b"], ["red"], tmp_path / "out").done == 2
    assert {p.name for p in (tmp_path / "out").glob("*.json")} == {"a_00_png.json", "b_00_png.json"}


def test_results_among_the_images_are_not_segmented_again(tiny_run: Path, tmp_path: Path) -> None:
    paint(tmp_path, 2)
    for _ in range(2):
        assert predict(tiny_run, [tmp_path], "red, green", tmp_path).done == 2
    with pytest.raises(UserError, match="results of earlier predictions"):
        predict(tiny_run, [tmp_path / "00_ids.png"], "red, green", tmp_path / "out")


def test_mistakes_show_before_anything_is_written(tiny_run: Path, tmp_path: Path) -> None:
    images = paint(tmp_path / "in", 1)
    for labels, words in (
        ("red, red", "stands twice"),
        ("red,,green", "is empty"),
        ("no such colour", "no such colour"),
    ):
        with pytest.raises(UserError, match=words):
            predict(tiny_run, images, labels, tmp_path / "out")
    with pytest.raises(UserError, match="is a file"):
        predict(tiny_run, images, "red", images[0])
    assert not (tmp_path / "out").exists()


def test_a_few_images_need_no_ray(tiny_run: Path, tmp_path: Path) -> None:
    images = [str(p) for p in paint(tmp_path / "in", 1)]
    code = (
        "import sys; from ovseg_ray.evaluation.predict import predict;"
        f"predict({str(tiny_run)!r}, {images!r}, 'red, green', {str(tmp_path / 'out')!r});"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.ray
def test_many_images_on_ray_give_the_same_files(ray_cluster: None, tiny_run: Path, tmp_path: Path) -> None:
    images = paint(tmp_path / "in", 20)
    images[7].write_bytes(images[7].read_bytes()[:80])
    summary = predict(tiny_run, [tmp_path / "in"], "red, green, blue", tmp_path / "many")
    assert summary.done == 19
    assert [path for path, _ in summary.failures] == [str(images[7])]
    predict(tiny_run, images[:3], "red, green, blue", tmp_path / "few")
    for file in (tmp_path / "few").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()
