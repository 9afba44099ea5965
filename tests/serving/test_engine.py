"""What the engine promises, without HTTP: batches, caches, deadlines, admission, swapping models, tiles."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serving_tools import WORDS, encoded, make_run, picture

from ovseg_ray.errors import UserError
from ovseg_ray.serving.api import Parameters
from ovseg_ray.serving.config import LimitsConfig, ServingConfig
from ovseg_ray.serving.engine import Answer, Engine
from ovseg_ray.serving.hub import Hub
from ovseg_ray.serving.hub_client import LocalHub
from ovseg_ray.serving.problems import ProblemError

LABELS = ["sky", "grass", "a red car"]


def parameters(**values: Any) -> Parameters:
    return Parameters.model_validate({"candidate_labels": LABELS, "return": ["confidence"], **values})


def make(run: Path, hub: LocalHub | None = None, processors: int = 1, **changes: Any) -> Engine:
    config = ServingConfig.model_validate({"models": [{"run": str(run), "device": "cpu"}], **changes})
    before = torch.get_num_threads()
    torch.set_num_threads(processors)
    try:
        engine = Engine(hub)
    finally:
        torch.set_num_threads(before)
    engine.load(config)
    return engine


class Blocked:
    """Holds the thread of an engine's only processor within the block."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._go = engine, threading.Event()

    def __enter__(self) -> Blocked:
        (thread,) = self._engine._cpu._executors
        thread.submit(self._go.wait, 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()


def as_many_as_fit(engine: Engine) -> None:
    """What was learned of batch sizes is that the largest are best."""
    engine.models.get(None)._sizes.best = lambda key, most: most  # type: ignore[method-assign]


def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Pictures of each pass through the network, and the threads that it computes with."""
    method, passes = engine.models.get(None).method, []
    real = method.encode

    def encode(images: torch.Tensor) -> Any:
        passes.append((len(images), torch.get_num_threads()))
        return real(images)

    monkeypatch.setattr(method, "encode", encode)
    return passes


def test_what_comes_alone_has_all_processors_and_a_crowd_shares_them(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(run, processors=3)
    for executor in (engine._helpers, engine._loader):
        assert executor.submit(torch.get_num_threads).result() == 1
    passes = counted(engine, monkeypatch)
    images = [picture(seed=seed) for seed in range(7)]
    alone = [asyncio.run(engine.segment(encoded(image), None, parameters())) for image in images]
    assert passes == [(1, 3)] * 7
    passes.clear()
    as_many_as_fit(engine)

    async def ask() -> list[Answer]:
        held = await engine._cpu.take()
        tasks = [asyncio.create_task(engine.segment(encoded(image), None, parameters())) for image in images]
        while engine.models.get(None).batcher.waiting < len(tasks):
            await asyncio.sleep(0.01)
        engine._cpu.give_back(held)
        return await asyncio.gather(*tasks)

    together = asyncio.run(ask())
    assert [threads for _, threads in passes[:3]] == [1, 1, 1], "side by side"
    assert sorted(size for size, _ in passes[:3]) == [2, 2, 3], "an even part of them each"
    for one, other in zip(alone, together, strict=True):
        assert (one.label_map == other.label_map).mean() > 0.999  # rounding may decide a near tie either way


async def crowd(engine: Engine, asks: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """The first goes through the model alone; all others have come to wait before it is done."""
    batcher = engine.models.get(None).batcher
    as_many_as_fit(engine)
    with Blocked(engine):
        tasks = [asyncio.create_task(asks[0])]
        while not batcher.running:
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(ask) for ask in asks[1:]]
        while batcher.waiting < len(asks) - 1:
            await asyncio.sleep(0.01)
    return await asyncio.gather(*tasks)


def test_batched_answers_equal_single_ones(run: Path) -> None:
    engine = make(run)
    sizes: list[int] = []
    engine.models.get(None).batcher.on_batch = lambda size, seconds: sizes.append(size)
    # 37 x 65 and 40 x 70 pad to the same shape and share batches; 64 x 64 does not
    pictures = [picture(*size, seed=seed) for seed, size in enumerate([(37, 65), (40, 70), (64, 64)] * 4)]
    labels = [LABELS, ["sky", "car"], WORDS[5:]] * 4

    asks = [
        engine.segment(encoded(image), None, parameters(candidate_labels=names))
        for image, names in zip(pictures, labels, strict=True)
    ]
    batched = asyncio.run(crowd(engine, asks))
    assert max(sizes) >= 4, sizes
    for image, names, answer in zip(pictures, labels, batched, strict=True):
        alone = engine.models.get(None).segmenter.segment(image, names)
        assert (answer.label_map == alone.label_map).mean() > 0.999  # rounding may decide a near tie either way
        assert answer.response.confidence is not None
        certain = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.response.confidence.png))))
        assert np.abs(certain - alone.confidence * 255).max() <= 0.51
        single = asyncio.run(engine.segment(encoded(image), None, parameters(candidate_labels=names)))
        assert np.array_equal(single.label_map, alone.label_map)


@pytest.mark.parametrize(
    ("most", "together"),
    [
        (2**18, [(3, (37, 65), 3), (3, (40, 70), 1), (5, (37, 65), 2)]),
        (37 * 65, [(3, (37, 65), 1)] * 3 + [(3, (40, 70), 1)] + [(5, (37, 65), 1)] * 2),
    ],
)
def test_labels_of_small_pictures_that_ask_the_same_are_found_together(
    run: Path, monkeypatch: pytest.MonkeyPatch, most: int, together: list[Any]
) -> None:
    monkeypatch.setattr("ovseg_ray.serving.models.LABELLED_TOGETHER", most)
    engine = make(run)
    model = engine.models.get(None)
    real, calls = model.method.segment, []

    def segment(encoding: Any, text: torch.Tensor, size: tuple[int, int]) -> Any:
        calls.append((len(text), size, len(encoding.tensors["features"])))
        return real(encoding, text, size)

    monkeypatch.setattr(model.method, "segment", segment)
    asks = [((37, 65), LABELS)] * 3 + [((37, 65), WORDS[5:10])] * 2 + [((40, 70), LABELS)]
    images = [picture(*size, seed=seed) for seed, (size, _) in enumerate(asks)]

    wanted = [
        engine.segment(encoded(image), None, parameters(candidate_labels=names))
        for image, (_, names) in zip(images, asks, strict=True)
    ]
    first = engine.segment(encoded(picture(8, 8)), None, parameters())
    answers = asyncio.run(crowd(engine, [first, *wanted]))[1:]
    assert sorted(calls[1:]) == together
    for image, (_, names), answer in zip(images, asks, answers, strict=True):
        alone = model.segmenter.segment(image, names)
        assert (answer.label_map == alone.label_map).mean() > 0.999  # each got its own picture's labels


def test_masks_of_small_pictures_are_made_without_another_thread(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)
    went: list[Any] = []
    submit = engine._helpers.submit
    monkeypatch.setattr(engine._helpers, "submit", lambda *task: (went.append(task), submit(*task))[1])

    def helped(size: int, **values: Any) -> int:
        went.clear()
        asyncio.run(engine.segment(encoded(picture(size, size)), None, parameters(**values)))
        return len(went)

    helped(64)  # its vectors
    assert helped(64) == 1, "decoding, which a method may follow with enlarging"
    assert helped(640) == 2, "decoding and masks"
    assert helped(64, **{"return": ["overlay"]}) == 2
    many = {"candidate_labels": WORDS[:300]}
    helped(64, **many)
    assert helped(64, **many) == 2, "masks of many labels"


def test_a_known_label_calls_no_text_tower(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = LocalHub(Hub(2**20, 60))
    first, second = make(run, hub), make(run, hub)
    towers = [engine.models.get(None).method.text_encoder for engine in (first, second)]
    asked: list[Sequence[str]] = []
    for tower in towers:
        real = tower.encode
        monkeypatch.setattr(tower, "encode", lambda texts, real=real: (asked.append(list(texts)), real(texts))[1])
    caches = []
    for engine, names in [(first, LABELS), (first, LABELS), (first, ["grass", "sky"]), (second, ["sky", "car"])]:
        answer = asyncio.run(engine.segment(encoded(picture()), None, parameters(candidate_labels=names)))
        caches.append((answer.response.cache.prompts, answer.response.cache.prompts_encoded))
    assert asked == [LABELS, ["car"]], "the second replica knows sky from the first"
    assert caches == [(0, 3), (3, 0), (2, 0), (1, 1)]


def test_an_upload_is_known_to_other_replicas_and_other_models(tmp_path: Path, run: Path) -> None:
    hub = LocalHub(Hub(2**30, 60))
    other = make_run(tmp_path / "other", seed=1)
    models = {"models": [{"run": str(run)}, {"run": str(other)}]}
    first, second = make(run, hub, **models), make(run, hub, **models)
    upload = asyncio.run(first.upload(encoded(picture()), None))
    assert (upload.height, upload.width) == (37, 65)
    known = asyncio.run(second.segment(None, upload.id, parameters()))
    assert known.response.cache.image
    for name, expected in (("other", False), ("other", True)):
        answer = asyncio.run(second.segment(None, upload.id, parameters(model=name)))
        assert answer.response.cache.image is expected
        fresh = asyncio.run(first.segment(encoded(picture()), None, parameters(model=name)))
        assert np.array_equal(answer.label_map, fresh.label_map)
    asyncio.run(first.forget(upload.id))
    with pytest.raises(ProblemError) as caught:
        asyncio.run(first.segment(None, upload.id, parameters()))
    assert caught.value.code == "image_not_found"


@pytest.mark.parametrize("tiles", [{}, {"above_pixels": 4096, "side": 64, "overlap": 16}], ids=["whole", "windows"])
def test_an_upload_without_room_is_refused_before_it_is_encoded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: dict[str, int]
) -> None:
    models = [{"run": str(run)}, {"run": str(make_run(tmp_path / "other", seed=1))}]
    engine, data = make(run, models=models, tiles=tiles), encoded(picture(150, 230))
    taken = asyncio.run(engine.upload(data, None)).bytes
    exact = ServingConfig.model_validate({**engine.config.model_dump(), "images": {"bytes": taken}})
    engine.load(exact)
    upload = asyncio.run(engine.upload(data, None))
    assert upload.bytes == taken, "it is known to the byte how large it will be"
    first = engine.models.get(None)
    calls: list[int] = []
    real = first.method.encode
    monkeypatch.setattr(first.method, "encode", lambda images: (calls.append(len(images)), real(images))[1])
    engine.load(exact.model_copy(update={"images": exact.images.model_copy(update={"bytes": taken - 1})}))
    with pytest.raises(ProblemError, match=f"takes {taken} bytes") as caught:
        asyncio.run(engine.upload(data, None))
    assert (caught.value.code, calls) == ("storage_full", [])


def test_a_deadline_cancels_what_waits(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)
    as_many_as_fit(engine)
    method = engine.models.get(None).method
    real, sizes = method.encode, []
    monkeypatch.setattr(method, "encode", lambda images: (sizes.append(len(images)), real(images))[1])

    async def ask() -> None:
        patient = parameters()
        with Blocked(engine):
            # the first is the model's already, the others wait
            tasks = [asyncio.create_task(engine.segment(encoded(picture()), None, patient))]
            await asyncio.sleep(0.2)
            tasks += [asyncio.create_task(engine.segment(encoded(picture()), None, patient)) for _ in range(2)]
            hasty = [
                asyncio.create_task(engine.segment(encoded(picture()), None, parameters(deadline_ms=200)))
                for _ in range(5)
            ]
            for error in await asyncio.gather(*hasty, return_exceptions=True):
                assert isinstance(error, ProblemError)
                assert (error.code, error.status) == ("deadline_exceeded", 504)
        await asyncio.gather(*tasks)

    asyncio.run(ask())
    assert sizes == [1, 2], "what nobody waits for is not computed"


def test_a_client_may_shorten_the_deadline_and_not_lengthen_it(run: Path) -> None:
    engine = make(run, limits={"deadline_ms": 100})

    async def ask() -> None:
        with Blocked(engine), pytest.raises(ProblemError, match="100 ms"):
            await engine.segment(encoded(picture()), None, parameters(deadline_ms=10_000))

    asyncio.run(ask())


def test_too_many_requests_are_refused_with_a_time_to_come_back(run: Path) -> None:
    engine = make(run, limits={"requests": 2})
    with engine.admitted(), engine.admitted():
        with pytest.raises(ProblemError) as caught, engine.admitted():
            pass
        assert (caught.value.code, caught.value.status) == ("overloaded", 429)
        assert int(caught.value.headers["Retry-After"]) >= 1
    with engine.admitted():
        pass
    engine.draining = True
    with pytest.raises(ProblemError) as caught, engine.admitted():
        pass
    assert (caught.value.code, caught.value.status) == ("unavailable", 503)
    assert "Retry-After" in caught.value.headers


def test_models_are_swapped_under_a_request(run: Path, tmp_path: Path) -> None:
    engine = make(run)
    old = engine.models.get(None)
    new = make_run(tmp_path / "new", seed=5)
    both = engine.config.model_copy(
        update={
            "models": [
                engine.config.models[0].model_copy(update={"run": str(new), "name": "lseg"}),
                *engine.config.models,
            ]
        }
    )

    async def ask() -> tuple[Answer, Answer, Answer]:
        with Blocked(engine):
            before = asyncio.create_task(engine.segment(encoded(picture()), None, parameters()))
            await asyncio.sleep(0.1)
            engine.load(both)
            after = asyncio.create_task(engine.segment(encoded(picture()), None, parameters()))
            named = asyncio.create_task(engine.segment(encoded(picture()), None, parameters(model=old.key)))
        return await before, await after, await named

    before, after, named = asyncio.run(ask())
    assert before.response.version == named.response.version == old.version
    assert after.response.version != old.version
    assert np.array_equal(before.label_map, named.label_map)
    assert engine.models.get(old.key) is old, "what stays is not loaded again"
    with pytest.raises(UserError):
        engine.load(both.model_copy(update={"models": [both.models[0].model_copy(update={"run": "/nowhere"})]}))
    assert len(engine.models.describe()) == 2, "a swap that fails changes nothing"


def test_all_of_another_configuration_holds_for_models_that_stay(run: Path) -> None:
    hub = LocalHub(Hub(2**20, 60))
    engine = make(run, hub)
    as_many_as_fit(engine)
    model = engine.models.get(None)
    measured = model._budget
    changes = {
        "batching": {"max_images": 3},
        "tiles": {"above_pixels": 4096, "side": 64, "overlap": 0},
        "images": {"bytes": 12_345, "ttl_s": 7.0},
    }
    other = ServingConfig.model_validate({**engine.config.model_dump(), **changes})
    engine.load(other)
    assert engine.models.get(None) is model, "it is not loaded again"
    assert (model.limit((64, 64), 1), model.tile_side) == (3, 64)
    assert model.grid(model.prepare(picture(150, 230))) is not None
    with pytest.raises(ProblemError, match="takes") as caught:
        asyncio.run(engine.upload(encoded(picture()), None))
    assert caught.value.code == "storage_full"
    assert hub.get_config() == other.model_dump(mode="json")
    model._budget = 5  # as after a batch that did not fit
    engine.load(engine.config)
    assert model._budget == 5, "what was learned stays where nothing was changed"
    engine.load(ServingConfig.model_validate({**other.model_dump(), "batching": {"memory_bytes": measured + 2**20}}))
    assert model._budget == measured + 2**20
    with pytest.raises(UserError):
        engine.load(other.model_copy(update={"models": [other.models[0].model_copy(update={"run": "/nowhere"})]}))
    assert model._budget == measured + 2**20, "a mistake changes nothing"
    assert hub.get_config() == engine.config.model_dump(mode="json")


def test_large_pictures_go_through_windows(run: Path) -> None:
    engine = make(run, tiles={"above_pixels": 4096, "side": 64, "overlap": 16})
    whole = make(run)
    image = picture(150, 230)
    tiled = asyncio.run(engine.segment(encoded(image), None, parameters()))
    plain = asyncio.run(whole.segment(encoded(image), None, parameters()))
    assert tiled.label_map.shape == (150, 230)
    assert (tiled.label_map == plain.label_map).mean() > 0.8
    upload = asyncio.run(engine.upload(encoded(image), None))
    again = asyncio.run(engine.segment(None, upload.id, parameters()))
    assert np.array_equal(again.label_map, tiled.label_map)
    assert again.response.cache.image


def test_windows_hold_few_encodings_at_a_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run, tiles={"above_pixels": 4096, "side": 64, "overlap": 16})
    model = engine.models.get(None)
    most = 0
    real = model._windows

    async def counted(grid: Any, image: Any, windows: Any) -> Any:
        nonlocal most
        most = max(most, len(windows))
        return await real(grid, image, windows)

    monkeypatch.setattr(model, "_windows", counted)
    asyncio.run(engine.segment(encoded(picture(1000, 100)), None, parameters()))
    assert most <= 2 * 2, "no more than two rows of windows are asked for together"


def test_a_deadline_stops_windows_half_way(run: Path) -> None:
    engine = make(run, tiles={"above_pixels": 4096, "side": 64, "overlap": 0})
    model = engine.models.get(None)
    done: list[int] = []
    model.batcher.on_batch = lambda size, seconds: done.append(size)
    with pytest.raises(ProblemError) as caught:
        asyncio.run(engine.segment(encoded(picture(2000, 2000)), None, parameters(deadline_ms=300)))
    assert caught.value.code == "deadline_exceeded"
    assert sum(done) < (2000 // 64) ** 2


def test_batches_are_as_large_as_memory_allows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run, processors=4)
    as_many_as_fit(engine)
    model = engine.models.get(None)
    assert model._cost > 0
    model._budget = int(model._cost * 64 * 64 * 13)
    assert [model.limit((64, 64), part) for part in (1, 2, 4)] == [3, 6, 13], "of memory a pass has its part"
    assert (model.limit((64, 64), 1), model.limit((640, 640), 4)) == (3, 1)
    assert [model._least((side, side)) for side in (64, 192, 640)] == [1, 3, 31], "and a large picture takes more"
    model._budget = 2**40
    assert model.limit((64, 64), 1) == 16


@pytest.mark.parametrize(("room", "threads"), [(4, [1, 1, 1, 1]), (2, [2, 2, 2, 2]), (1, [4] * 4), (0.5, [4] * 4)])
def test_passes_side_by_side_fit_into_memory(
    run: Path, monkeypatch: pytest.MonkeyPatch, room: float, threads: list[int]
) -> None:
    engine = make(run, processors=4)
    model = engine.models.get(None)
    passes = counted(engine, monkeypatch)
    model._budget = int(model._cost * 64 * 64 * room) + 1

    async def ask() -> None:
        held = await engine._cpu.take()
        tasks = [asyncio.create_task(engine.segment(encoded(picture(64, 64)), None, parameters())) for _ in range(4)]
        while model.batcher.waiting < len(tasks):
            await asyncio.sleep(0.01)
        engine._cpu.give_back(held)
        await asyncio.gather(*tasks)

    monkeypatch.setattr(model, "grid", lambda prepared: None)  # a picture of that size goes through as a whole
    asyncio.run(ask())
    assert passes == [(1, part) for part in threads]


def test_a_batch_that_does_not_fit_is_halved(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)
    model = engine.models.get(None)
    real, sizes = model.method.encode, []

    def encode(images: torch.Tensor) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(images)

    monkeypatch.setattr(model.method, "encode", encode)

    asks = [engine.segment(encoded(picture(seed=seed)), None, parameters()) for seed in range(9)]
    answers = asyncio.run(crowd(engine, asks))
    assert len(answers) == 9
    assert max(sizes) > 2
    assert all(answer.response.image.width == 65 for answer in answers)


def test_a_slow_text_tower_keeps_nobody_else_waiting(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)
    texts, go = engine.models.get(None).texts, threading.Event()
    real = texts.embed

    def slow(vocabulary: Any) -> Any:
        go.wait(10)
        return real(vocabulary)

    async def ask() -> list[Any]:
        data = encoded(picture())
        await engine.segment(data, None, parameters())  # these labels are known from here on
        monkeypatch.setattr(texts, "embed", slow)
        late = [
            asyncio.create_task(engine.segment(data, None, parameters(candidate_labels=[f"word {i}"], deadline_ms=100)))
            for i in range(3)
        ]
        gone = await asyncio.gather(*late, return_exceptions=True)
        answer = await engine.segment(data, None, parameters(deadline_ms=5000))
        go.set()
        return [*gone, answer]

    *gone, answer = asyncio.run(ask())
    assert [error.code for error in gone] == ["deadline_exceeded"] * 3
    assert isinstance(answer, Answer)


def test_a_deadline_covers_fetching(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)

    async def never(*_: Any) -> bytes:
        await asyncio.sleep(30)
        return b""

    monkeypatch.setattr("ovseg_ray.serving.engine.fetching.fetch", never)

    async def ask() -> list[Any]:
        url, hasty = "https://images.example.org/a.jpg", parameters(deadline_ms=200)
        with pytest.raises(ProblemError) as caught:
            await engine.segment(url, None, hasty)
        lines = [answer async for _, answer in engine.segment_many([url, url], hasty)]
        engine.config = engine.config.model_copy(update={"limits": LimitsConfig(deadline_ms=200)})
        with pytest.raises(ProblemError) as other:
            await engine.upload(url, None)
        return [caught.value, other.value, *lines]

    assert [error.code for error in asyncio.run(ask())] == ["deadline_exceeded"] * 4


def test_a_slow_reader_holds_new_pictures_up_and_is_not_cut_off(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run, batching={"max_images": 2})
    begun: list[int] = []
    real = engine._segment

    async def counted(*arguments: Any) -> Any:
        begun.append(1)
        return await real(*arguments)

    monkeypatch.setattr(engine, "_segment", counted)

    async def read() -> tuple[int, list[tuple[int, Any]]]:
        stream = engine.segment_many([encoded(picture())] * 12, parameters(deadline_ms=2000))
        found = [await anext(stream)]
        await asyncio.sleep(2.5)
        early = len(begun)
        return early, found + [line async for line in stream]

    early, found = asyncio.run(read())
    assert early <= 4, "two batches, none of which was taken"
    assert sorted(index for index, _ in found) == list(range(12))
    late = [answer for _, answer in found if isinstance(answer, ProblemError)]
    assert {error.code for error in late} == {"deadline_exceeded"}
    assert len(late) >= 8, "what had not begun by then"


def test_streams_share_a_bound(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run, batching={"max_images": 2})
    real, inside, most = engine._segment, 0, 0

    async def counted(*arguments: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return await real(*arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(engine, "_segment", counted)

    async def read() -> int:
        return len([line async for line in engine.segment_many([encoded(picture())] * 6, parameters())])

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(read() for _ in range(4)))

    assert asyncio.run(all_of_them()) == [6] * 4
    assert most <= 4


def test_one_pictures_fault_does_not_end_a_batch(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(run)
    real = engine._prepare

    def prepare(data: bytes, model: Any) -> Any:
        if data == b"fault":
            raise RuntimeError("broken")
        return real(data, model)

    monkeypatch.setattr(engine, "_prepare", prepare)
    monkeypatch.setattr(engine, "_pixels", lambda source: 10)

    async def ask() -> dict[int, Any]:
        sources = [encoded(picture()), b"fault", encoded(picture(seed=1))]
        return {index: answer async for index, answer in engine.segment_many(sources, parameters())}

    answers = asyncio.run(ask())
    assert [type(answers[index]) for index in range(3)] == [Answer, ProblemError, Answer]
    assert answers[1].code == "internal"
    assert "broken" not in answers[1].detail
