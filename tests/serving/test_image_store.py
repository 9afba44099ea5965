"""Values that expire, and values that make room."""

from __future__ import annotations

from ovseg_ray.serving.hub import Hub
from ovseg_ray.serving.image_store import ExpiringStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_not_used_is_forgotten() -> None:
    clock = Clock()
    store: ExpiringStore[str] = ExpiringStore(100, 10, clock)
    store.put("a", "A", 1)
    store.put("b", "B", 1)
    clock.now = 9
    assert store.get("a") == "A"
    clock.now = 12
    assert store.get("b") is None
    assert store.get("a") == "A", "its time started anew"
    clock.now = 22
    assert store.get("a") is None
    assert (len(store), store.bytes) == (0, 0)


def test_the_least_recently_used_makes_room() -> None:
    store: ExpiringStore[str] = ExpiringStore(10, 60)
    for key in "abc":
        assert store.put(key, key, 3)
    store.get("a")
    assert store.put("d", "d", 4)
    assert store.bytes == 10
    assert [key for key in "abcd" if store.get(key)] == ["a", "c", "d"]
    assert not store.put("e", "e", 11), "larger than all there is"
    assert store.bytes == 10
    assert store.put("a", "new", 1)
    assert store.bytes == 8
    assert store.delete("a")
    assert not store.delete("a")


def test_an_upload_grows_with_each_model_and_never_past_the_bound() -> None:
    hub = Hub(100, 60)
    key = hub.put_image(b"1234", (2, 2), "a@1", "first", 40)
    assert key is not None
    assert len(key) > 20
    hub.add_encoding(key, "b@1", "second", 40)
    hub.add_encoding(key, "c@1", "third", 40)
    upload = hub.get_image(key)
    assert upload is not None
    assert upload.encodings == {"a@1": "first", "b@1": "second"}
    other = hub.put_image(b"12", (2, 2), "a@1", "other", 60)
    assert hub.get_image(key) is None, "it made room"
    assert other is not None
    assert hub.put_image(b"", (2, 2), "a@1", "large", 101) is None


def test_a_copy_is_looked_up_again_however_often_it_is_used() -> None:
    clock = Clock()
    store: ExpiringStore[str] = ExpiringStore(100, 10, clock, renews=False)
    store.put("a", "A", 1)
    clock.now = 9
    assert store.get("a") == "A"
    clock.now = 10
    assert store.get("a") is None


def test_other_bounds_hold_for_what_is_kept_already() -> None:
    clock = Clock()
    store: ExpiringStore[str] = ExpiringStore(100, 1000, clock)
    for key in "abc":
        store.put(key, key, 30)
        clock.now += 1
    store.max_bytes = 60
    assert [key for key in "abc" if store.get(key)] == ["b", "c"]
    store.ttl_s = 10
    store.put("d", "d", 1)
    clock.now += 9.5
    assert store.get("d") == "d"
    clock.now += 1
    assert [key for key in "bcd" if store.get(key)] == ["d"]


def test_what_expired_goes_though_nobody_asks() -> None:
    clock = Clock()
    hub = Hub(100, 10, clock)
    assert hub.put_image(b"1234", (2, 2), "a@1", "encoding", 40)
    clock.now = 11
    assert hub._uploads.bytes == 44
    hub.tidy()
    assert hub._uploads.bytes == 0
