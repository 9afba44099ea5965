from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.data.check import check_dataset


def test_a_sound_set_has_no_problems(camvid: Path) -> None:
    calls: list[tuple[int, int]] = []
    assert check_dataset(open_dataset(camvid), lambda done, total: calls.append((done, total))) == []
    assert calls == [(1, 2), (2, 2)]


def test_every_broken_file_is_named_once_in_order(camvid: Path) -> None:
    (camvid / "train.txt").unlink()
    (camvid / "images/train/a.png").write_bytes(b"")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(camvid / "masks/train/b.png")
    mask = np.full((6, 8), 7, np.uint8)
    Image.fromarray(mask).save(camvid / "masks/train/c.png")
    problems = check_dataset(open_dataset(camvid))
    assert [problem.partition(": ")[0] for problem in problems] == [
        str(camvid / "images/train/a.png"),
        str(camvid / "masks/train/b.png"),
        str(camvid / "masks/train/c.png"),
    ]
    assert ["empty file" in problems[0], "2 x 2" in problems[1], "class id 7" in problems[2]] == [True] * 3
