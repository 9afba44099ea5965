"""Hashes of what files hold, and the cheap sign that they may have changed."""

from __future__ import annotations

import os
from pathlib import Path

from ovseg_ray.feature_store.sources import ContentHash, Source, content_of, stamp_of

SOURCES = [Source("a", "1:1", "aa"), Source("b", "1:1", "bb"), Source("c", "1:1", None)]


def hashed(*sources: Source) -> str:
    total = ContentHash()
    total.update(sources)
    assert total.images == len(sources)
    return total.hexdigest()


def test_the_order_of_images_and_how_they_are_dealt_out_change_nothing() -> None:
    total = ContentHash()
    total.update(SOURCES[2:])
    total.update(SOURCES[:2])
    assert total.hexdigest() == hashed(*SOURCES) == hashed(*reversed(SOURCES))
    assert len(hashed(*SOURCES)) == len(hashed()) == 32


def test_contents_and_names_count_and_stamps_do_not() -> None:
    whole = hashed(*SOURCES)
    assert hashed(*SOURCES[:2]) != whole
    assert hashed(SOURCES[0], Source("b", "1:1", "b2"), SOURCES[2]) != whole
    assert hashed(Source("a", "1:1", "bb"), Source("b", "1:1", "aa"), SOURCES[2]) != whole  # two images exchanged
    assert hashed(*(source._replace(stamp="2:2") for source in SOURCES)) == whole


def test_bytes_belong_to_their_file() -> None:
    assert content_of([b"ab", b"c"]) != content_of([b"a", b"bc"])
    assert content_of([b"ab"]) == content_of(iter([b"ab"])) != content_of([b"ab", b""])


def test_a_stamp_tells_size_and_time_of_every_file(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    image.write_bytes(b"12345")
    os.utime(image, ns=(0, 17))
    assert stamp_of([image, mask]) == "5:17 -"
    assert stamp_of([]) == ""
    os.utime(image, ns=(0, 18))
    assert stamp_of([str(image)]) == "5:18"
