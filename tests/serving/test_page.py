"""The page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import endpoint
from PIL import Image
from starlette.testclient import TestClient

from ovseg_ray.evaluation.palette import palette
from ovseg_ray.serving.auth import new_token
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.page_files import PAGE
from ovseg_ray.serving.samples import SCENES, sample

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 700}, "has_touch": True, "is_mobile": True}
Page = Any


# ---- what needs no browser


def test_the_page_holds_no_inline_code_and_names_no_other_host() -> None:
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), f"{file.name} names a host"
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\bstyle=|\son\w+=|<script(?![^>]*src=)", html)


def test_its_files_come_with_a_strict_policy(client: TestClient) -> None:
    for path in ("/", "/main.js", "/style.css"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_its_colours_are_those_of_the_overlays() -> None:
    found = re.findall(r"#[0-9a-f]{6}", (PAGE / "palette.js").read_text(encoding="utf-8"))
    assert found == [f"#{bytes(colour).hex()}" for colour in palette(len(found)).tolist()]


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_samples_show_what_they_say(client: TestClient, number: int) -> None:
    told = client.get("/samples").json()["samples"][number]
    answer = client.get("/" + told["url"])
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (96, 96)
    assert told["caption"] == ", ".join(told["labels"][:-1])
    assert len(told["labels"]) == len(set(told["labels"])) >= 3


def test_there_is_no_sample_beyond_the_last(client: TestClient) -> None:
    assert client.get(f"/samples/{len(SCENES)}.png").status_code == 422


# ---- what does


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # no sandbox: tests may run as root, and load nothing but our own page
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, live: tuple[str, Engine]) -> Iterator[Any]:
    """Opens the page; afterwards, sees that it made no mistake and asked no other host."""
    contexts, complaints = [], []

    def open_page(expect: str = "", path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**(options or DESKTOP))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)

        def on_console(message: Any) -> None:
            if message.type == "error" and not (expect and re.search(expect, message.text)):
                complaints.append(message.text)

        page.on("console", on_console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith((live[0], "blob:")) or complaints.append(r.url))
        page.goto(live[0] + path)
        until(page, "document.querySelectorAll('#samples img').length > 0 && document.querySelector('.view') !== null")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def take_sample(page: Page, number: int = 4) -> None:
    page.locator("#samples button").nth(number).click()
    settled(page)


def until(page: Page, expression: str) -> None:
    """Waits for something in the page; Playwright's own way to do so needs eval, which the page's policy forbids."""
    ends = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"never came true: {expression}"
        time.sleep(0.02)


def says(page: Page, words: str) -> None:
    """Waits until the page says this."""
    until(page, f"document.getElementById('message').textContent.includes({json.dumps(words)})")


def settled(page: Page) -> None:
    """Waits until every pane shows the labels that are typed."""
    until(
        page,
        """() => {
          const typed = document.getElementById('labels').value.split(',').map(s => s.trim().split('|')[0]);
          const rows = [...document.querySelectorAll('#legend .name')].map(n => n.textContent.split(' | ')[0]);
          const shares = [...document.querySelectorAll('#legend .share')];
          return rows.length > 0 && JSON.stringify(typed.filter(Boolean)) === JSON.stringify(rows)
            && shares.every(s => s.textContent && !s.textContent.includes('–'));
        }""",
    )


def painted(page: Page, pane: int = 0) -> np.ndarray:
    """(H, W, 4) uint8: the colours of a pane."""
    data, width, height = (
        page.locator(".view canvas")
        .nth(pane)
        .evaluate(
            "c => [btoa(Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data,"
            " v => String.fromCharCode(v)).join('')), c.width, c.height]"
        )
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def label_map_of(pixels: np.ndarray, size: tuple[int, int], colours: list[str]) -> np.ndarray:
    """(H, W) indices into colours, -1 where there is none, from the upper left corner of each pixel's square."""
    factor = pixels.shape[0] // size[0]
    small = pixels[::factor, ::factor]
    found = np.full(size, -1)
    for index, colour in enumerate(colours):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found[(small[..., :3] == rgb).all(-1) & (small[..., 3] == 255)] = index
    return found


def legend_colours(page: Page) -> list[str]:
    return page.locator("#legend input[type=color]").evaluate_all("inputs => inputs.map(i => i.value)")


def expected(engine: Engine, number: int, labels: list[str], model: str | None = None) -> Any:
    image = np.asarray(Image.open(io.BytesIO(sample(number).png)))
    return engine.models.get(model).segmenter.segment(image, labels)


@in_browser
def test_typing_changes_the_picture_and_sends_only_text(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened(expect="status of 422")  # half a word is no word that this model knows
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r) if r.method == "POST" else None)
    take_sample(page)
    labels = list(sample(4).labels)
    colours = legend_colours(page)
    assert np.array_equal(
        label_map_of(painted(page), (96, 96), colours), expected(live[1], 4, labels).label_map.astype(int)
    )
    page.locator("#labels").press_sequentially(", turf", delay=5)
    settled(page)
    labels.append("turf")
    assert legend_colours(page)[:-1] == colours, "labels that stay keep their colours"
    found = label_map_of(painted(page), (96, 96), legend_colours(page))
    assert np.array_equal(found, expected(live[1], 4, labels).label_map.astype(int))
    uploads = [r for r in sent if r.url.endswith("/v1/images")]
    asked = [r.post_data_json for r in sent if r.url.endswith("/v1/segment")]
    assert len(uploads) == 1
    assert len(asked) >= 2
    assert all(set(body) == {"image_id", "parameters"} and len(json.dumps(body)) < 500 for body in asked)
    assert "picture known" in page.locator(".time").inner_text()


@in_browser
def test_labels_can_be_hidden_recoloured_removed_and_faded(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened()
    take_sample(page)
    labels = list(sample(4).labels)
    truth = expected(live[1], 4, labels)
    largest = int(np.bincount(truth.label_map.ravel()).argmax())
    row = page.locator("#legend li").nth(largest)
    share = 100 * (truth.label_map == largest).mean()
    assert row.locator(".share").inner_text() == f"{share:.0f} %"
    row.locator("input[type=color]").fill("#123456")
    colours = legend_colours(page)
    assert colours[largest] == "#123456"
    assert np.array_equal(label_map_of(painted(page), (96, 96), colours), truth.label_map.astype(int))
    row.locator("input[type=checkbox]").uncheck()
    shown = label_map_of(painted(page), (96, 96), colours)
    assert np.array_equal(shown == -1, truth.label_map == largest)
    row.locator("input[type=checkbox]").check()
    page.locator("#floor").fill("30")
    hidden = np.rint(truth.confidence * 255) < np.floor(255 * 0.3 + 0.5)
    assert hidden.any()
    assert not hidden.all()
    assert np.array_equal(label_map_of(painted(page), (96, 96), colours) == -1, hidden)
    page.locator("#floor").fill("0")
    page.locator("#opacity").fill("25")
    assert page.locator(".view canvas").evaluate("c => getComputedStyle(c).opacity") == "0.25"
    row.locator("button").click()
    settled(page)
    assert page.locator("#labels").input_value() == ", ".join(x for i, x in enumerate(labels) if i != largest)


def dimmed(page: Page) -> bool:
    """Whether any colour is faint, once the browser has told its rows where the pointer is."""
    page.wait_for_timeout(400)
    alpha = painted(page)[..., 3]
    return bool(((alpha > 0) & (alpha < 128)).any())


@in_browser
def test_only_a_pointer_that_moves_to_what_can_be_seen_dims_the_rest(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened()
    take_sample(page)
    truth = expected(live[1], 4, list(sample(4).labels))
    areas = np.bincount(truth.label_map.ravel(), minlength=len(sample(4).labels))
    order = areas.argsort()
    assert areas[order[0]] == 0
    assert areas[order[-3]] > 0
    absent, small, middle, large = (sample(4).labels[i] for i in order[[0, -3, -2, -1]])
    page.locator("#labels").fill(", ".join((absent, small, middle, large)))
    settled(page)

    def at(label: str) -> tuple[float, float]:
        box = page.get_by_role("button", name=f"Remove {label}").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    page.mouse.move(*at(absent))
    assert not dimmed(page), "there is nothing to show of this label"
    for removed in (absent, small):  # whose row the next one takes the place of
        x, y = at(removed)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.up()
        settled(page)
        assert removed not in page.locator("#labels").input_value()
        assert not dimmed(page), "the pointer rests"
        page.mouse.move(x + 2, y)
        assert not dimmed(page), "the hand slipped"
    page.mouse.move(*at(large))
    assert dimmed(page)
    page.mouse.move(*at(middle))
    assert dimmed(page)
    page.locator("#legend input[type=checkbox]").first.evaluate("input => input.click()")
    assert not dimmed(page), "a hidden label leaves the others as they are"
    page.mouse.move(5, 5)
    page.locator("#legend input[type=checkbox]").first.evaluate("input => input.click()")
    assert not dimmed(page)


@in_browser
def test_pointer_and_arrow_keys_tell_label_and_confidence(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened()
    take_sample(page)
    truth = expected(live[1], 4, list(sample(4).labels))

    def words(x: float, y: float) -> str:
        row, column = int(y * 96), int(x * 96)
        sure = np.rint(truth.confidence[row, column] * 255) / 255
        return f"{truth.vocabulary.names[truth.label_map[row, column]]}, {int(100 * sure + 0.5)} % sure"

    box = page.locator(".view").bounding_box()
    for x, y in ((0.1, 0.9), (0.72, 0.3)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        assert page.locator(".tip").inner_text() == words(x, y)
    page.mouse.move(5, 5)
    assert page.locator(".tip").is_hidden()
    page.locator(".view").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#spoken").inner_text() == words(0.52, 0.5)
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator("#spoken").inner_text() == words(0.52, 0.6)
    page.keyboard.press("Escape")
    assert page.locator(".tip").is_hidden()


@in_browser
def test_models_side_by_side(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened()
    uploads: list[Any] = []
    page.on("request", lambda r: uploads.append(r) if r.url.endswith("/v1/images") else None)
    take_sample(page)
    page.get_by_role("checkbox", name="second").check()
    settled(page)
    for pane, model in enumerate(("first", "second")):
        truth = expected(live[1], 4, list(sample(4).labels), model)
        found = label_map_of(painted(page, pane), (96, 96), legend_colours(page))
        assert np.array_equal(found, truth.label_map.astype(int))
    assert len(uploads) == 1, "one upload serves all models"
    page.locator(".view").first.hover(position={"x": 100, "y": 100})
    assert page.locator(".tip:visible").count() == 2, "the same place is told in both"
    page.get_by_role("checkbox", name="first").uncheck()
    page.get_by_role("checkbox", name="second").click()
    assert page.get_by_role("checkbox", name="second").is_checked(), "one model stays"
    assert page.locator(".pane").count() == 1


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


@in_browser
@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
def test_a_picture_is_chosen_dropped_or_pasted(opened: Any, way: str) -> None:
    page = opened()
    data = jpeg(60, 40, orientation=6)  # lies on its side
    if way == "chosen":
        page.locator("#file").set_input_files({"name": "my.jpg", "mimeType": "image/jpeg", "buffer": data})
    else:
        page.evaluate(
            """([text, way]) => {
              const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], "my.jpg", {type: "image/jpeg"}));
              const event = way === "dropped"
                ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true});
              document.body.dispatchEvent(event);
            }""",
            [base64.b64encode(data).decode(), way],
        )
    settled(page)
    assert page.locator("#labels").input_value() == "grass, sand, snow", "without words, those of the training"
    pixels = painted(page)
    assert pixels.shape[0] * 40 == pixels.shape[1] * 60, "upright, as the browser shows it"


@in_browser
def test_a_large_picture_is_reduced_before_it_is_sent(opened: Any) -> None:
    page = opened()
    page.locator("#labels").fill("sky, grass")
    page.locator("#file").set_input_files({"name": "wide.jpg", "mimeType": "image/jpeg", "buffer": jpeg(4096, 64)})
    settled(page)
    assert painted(page).shape[:2] == (32, 2048)


@in_browser
def test_what_is_wrong_is_said_in_plain_words(opened: Any) -> None:
    page = opened(expect="status of 4")
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    message = page.locator("#message")
    says(page, "notes.txt is not a picture")
    take_sample(page)
    assert message.is_hidden()
    page.locator("#labels").fill("sky, unheard of")
    page.wait_for_selector("#message.error:visible")
    assert "unheard of" in message.inner_text()
    page.locator("#labels").fill("sky, grass")
    settled(page)
    assert message.is_hidden()
    page.locator("#labels").fill("")
    says(page, "Type a label")
    assert not painted(page).any()


@in_browser
def test_a_forgotten_picture_is_sent_again(opened: Any, live: tuple[str, Engine]) -> None:
    page = opened(expect="status of 404")
    with page.expect_response(lambda r: r.url.endswith("/v1/images")) as upload:
        take_sample(page)
    page.request.delete(f"{live[0]}/v1/images/{upload.value.json()['id']}")
    page.locator("#labels").fill("sky, grass")
    settled(page)
    assert page.locator("#message").is_hidden()


@in_browser
def test_after_a_swap_the_page_asks_the_new_version(opened: Any, live: tuple[str, Engine]) -> None:
    page, engine = opened(expect="status of 404"), live[1]
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.post_data) if r.url.endswith("/v1/segment") else None)
    take_sample(page)
    page.get_by_role("checkbox", name="second").check()
    settled(page)
    before = engine.config
    try:
        models = [model.model_copy(update={"version": "new"}) for model in before.models]
        engine.load(before.model_copy(update={"models": models}))
        asked.clear()
        page.locator("#labels").fill("sky, grass")
        settled(page)
        assert page.locator("#message").is_hidden()
        assert page.locator(".pane").count() == 2
        assert page.get_by_role("checkbox", name="second").is_checked()
        assert {json.loads(body)["parameters"]["model"] for body in asked[2:]} == {"first@new", "second@new"}
        engine.load(before.model_copy(update={"models": before.models[:1]}))
        page.locator("#labels").fill("sky, sand")
        settled(page)
        assert page.locator(".pane").count() == 1, "one is gone for good"
    finally:
        engine.load(before)


@in_browser
def test_a_busy_server_is_asked_again(opened: Any) -> None:
    page = opened(expect="status of 429")
    refused: list[str] = []

    def refuse_once(route: Any) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route.request.url)
        problem = {"code": "overloaded", "detail": "9 requests are being answered", "status": 429}
        route.fulfill(status=429, headers={"retry-after": "1"}, json=problem)

    page.route("**/v1/segment", refuse_once)
    page.locator("#samples button").first.click()
    says(page, "asking again in 1 s")
    settled(page)
    assert page.locator("#message").is_hidden()
    assert len(refused) == 1


@in_browser
def test_a_token_is_asked_for_and_sent(browser: Any, tmp_path: Path) -> None:
    secret, line = new_token("somebody")
    with endpoint(tmp_path, names=("first",), tokens=[line]) as (url, _):
        context = browser.new_context(**DESKTOP)
        page = context.new_page()
        page.goto(url)
        field = page.get_by_label("Access token")
        says(page, "wants an access token")
        field.fill("guessed")
        page.keyboard.press("Enter")
        says(page, "does not know that access token")
        field.fill(secret)
        page.keyboard.press("Enter")
        page.wait_for_selector(".view", state="attached")
        assert field.is_hidden()
        take_sample(page)
        page.reload()
        until(page, "document.querySelector('.view') !== null")
        assert field.is_hidden(), "known until the tab is closed"
        context.close()


@in_browser
def test_what_a_proxy_lost_is_asked_again(opened: Any) -> None:
    page = opened(expect="status of 500")
    lost: list[str] = []

    def lose_once(route: Any) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.request.url)
        route.fulfill(status=500, content_type="text/plain", body="Internal Server Error")

    page.route("**/v1/segment", lose_once)
    take_sample(page)
    assert page.locator("#message").is_hidden()
    assert len(lost) == 1


@in_browser
def test_lists_fill_the_labels(opened: Any) -> None:
    page = opened()
    page.locator("#samples button").first.click()
    page.locator("#lists").select_option(label="what first was trained on (3)")
    settled(page)
    assert page.locator("#labels").input_value() == "grass, sand, snow"


@in_browser
def test_modules(opened: Any) -> None:
    page = opened()
    rng = np.random.default_rng(1)
    for kind, high in ((np.uint8, 256), (np.uint16, 65536)):
        smooth = np.add.outer(np.arange(33), np.arange(21)) * (high // 64)
        for values in (smooth.astype(kind), rng.integers(0, high, (9, 14)).astype(kind)):
            buffer = io.BytesIO()
            Image.fromarray(values).save(buffer, format="PNG")
            found = page.evaluate(
                "async png => { const {decodeGrey} = await import('./png.js'); const found = await decodeGrey(png);"
                " return [found.height, found.width, [...found.values]]; }",
                base64.b64encode(buffer.getvalue()).decode(),
            )
            assert found == [*values.shape, values.ravel().tolist()]
    labels = page.evaluate(
        """async () => {
          const {parse, reconcile, unparse} = await import('./labels.js');
          const now = reconcile([], parse('sky, gra,\\nsky, car | auto|car,,'));
          now[1].shown = false;
          const first = structuredClone(now);
          const second = reconcile(now, parse('sky, grass, car|auto'));
          const third = reconcile(second, parse('moon, sky, grass, car'));
          return [first, second, third, unparse(['a', ['b', 'c']])];
        }"""
    )
    first, second, third, text = labels
    assert [label["names"] for label in first] == [["sky"], ["gra"], ["car", "auto"]]
    assert [label["colour"] for label in first] == [label["colour"] for label in second]
    assert [label["shown"] for label in second] == [True, False, True]
    assert [label["colour"] for label in third[1:]] == [label["colour"] for label in second]
    assert len({label["colour"] for label in third}) == 4
    assert text == "a, b|c"


@in_browser
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_nothing_stands_in_the_way_of_assistive_technology(opened: Any, look: str) -> None:
    page = opened(**(PHONE if look == "phone" else {**DESKTOP, "color_scheme": look}))
    checker = axe.Axe()
    take_sample(page)
    page.get_by_role("checkbox", name="second").check()
    settled(page)
    found = checker.run(page)
    assert found.violations_count == 0, found.generate_report()


@in_browser
def test_on_a_phone_the_picture_stays_in_sight(opened: Any) -> None:
    page = opened(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#samples button").first.tap()
    settled(page)
    page.get_by_role("checkbox", name="second").scroll_into_view_if_needed()
    box = page.locator(".view").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] < 400
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".view").tap(position={"x": 40, "y": 40})
    assert page.locator(".tip").is_visible()


@in_browser
@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_the_samples_stand_whole_between_picture_and_labels(opened: Any, width: int) -> None:
    page = opened(**{**PHONE, "viewport": {"width": width, "height": 800}})
    assert "Choose a picture" in page.locator("#empty").inner_text()
    assert "Drop" not in page.locator("#empty").inner_text()
    page.locator("#samples button").last.tap()
    settled(page)
    boxes = [button.bounding_box() for button in page.locator("#samples button").all()]
    assert len({box["y"] for box in boxes}) == 1
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] >= 44 for box in boxes)
    stage, panel = (page.locator(name).bounding_box() for name in ("#stage", "#panel"))
    assert stage["y"] + stage["height"] <= boxes[0]["y"]
    assert boxes[0]["y"] + boxes[0]["height"] <= panel["y"]


@in_browser
def test_the_theme_can_be_chosen_and_is_remembered(opened: Any) -> None:
    page = opened()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    button.click()
    assert button.inner_text() == "Theme: dark"
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark
