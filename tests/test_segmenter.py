"""Three lines in a notebook: every kind of picture, every kind of labels, one line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ovseg_ray
from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

WORDS = ["sky", "grass", "a red car", "car", "automobile", *(f"word {i}" for i in range(300))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("demo") / "lseg"
    method = LSeg(build(LSegConfig, {"text": "table:/gone.npz", "width": 8, "encoder": {"channels": [8, 8, 8, 8]}}))
    method.use_text_encoder(TableTextEncoder(WORDS, torch.randn(len(WORDS), 16)))
    save_model(method, run / "model", vocabularies=[Vocabulary.of(["sky", "grass"])], provenance={})
    return run


@pytest.fixture(scope="module")
def model(run: Path) -> Segmenter:
    return ovseg_ray.load(run, "cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 65, 3), dtype=np.uint8)


@pytest.mark.parametrize("part", ["", "model", ".."])
def test_a_run_its_model_or_a_demo_can_be_given(run: Path, part: str, picture: np.ndarray) -> None:
    result = ovseg_ray.load(run / part).segment(picture, "sky, grass, a red car")
    assert result.label_map.shape == result.confidence.shape == (37, 65)
    assert result.label_map.dtype == np.uint8
    assert result.confidence.dtype == np.float32
    assert 0 < result.confidence.min() <= result.confidence.max() <= 1
    assert result.vocabulary.names == ("sky", "grass", "a red car")


@pytest.mark.parametrize(
    "labels", ["sky, car|automobile", ["sky", "car"], Vocabulary.of(["sky", "car"]), ("sky",), WORDS[5:]]
)
def test_labels_of_every_kind(model: Segmenter, picture: np.ndarray, labels: str | list[str] | Vocabulary) -> None:
    result = model.segment(picture, labels)
    assert result.label_map.max() < len(result.vocabulary)
    assert result.label_map.dtype == (np.uint16 if len(result.vocabulary) > 255 else np.uint8)


def test_synonyms_and_templates_reach_the_vectors(model: Segmenter) -> None:
    vocabulary = model.vocabulary("car|automobile")
    assert vocabulary.labels[0].synonyms == ("car", "automobile")
    assert vocabulary.templates == model.templates == ("{}",)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode(model: Segmenter, picture: np.ndarray, mode: str) -> None:
    image = Image.fromarray(picture)
    if mode == "I;16":
        image = Image.fromarray(picture[:, :, 0].astype(np.uint16) * 200)
    elif mode == "F":
        image = Image.fromarray(picture[:, :, 0].astype(np.float32))
    else:
        image = image.convert(mode)
    assert model.segment(image, "sky, grass").label_map.shape == (37, 65)


def test_file_image_and_array_are_the_same_picture(model: Segmenter, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    results = [
        model.segment(given, "sky, grass").label_map
        for given in (picture, Image.fromarray(picture), tmp_path / "a.png", str(tmp_path / "a.png"))
    ]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    grey = model.segment(picture[:, :, 0], "sky, grass").label_map
    assert np.array_equal(grey, model.segment(picture[:, :, :1], "sky, grass").label_map)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 3)])
def test_thin_pictures(model: Segmenter, size: tuple[int, int]) -> None:
    assert model.segment(np.zeros((*size, 3), np.uint8), "sky, grass").label_map.shape == size


def test_encoding_once_and_asking_twice(model: Segmenter, picture: np.ndarray) -> None:
    encoded = model.encode(picture)
    for labels in ("sky, grass", "car"):
        asked, whole = model.segment(encoded, labels), model.segment(picture, labels)
        assert np.array_equal(asked.label_map, whole.label_map)
        assert np.array_equal(asked.confidence, whole.confidence)


def test_half_the_precision_is_of_the_image_network_alone(run: Path, model: Segmenter, picture: np.ndarray) -> None:
    half = ovseg_ray.load(run, "cpu", precision="bf16")
    assert {p.dtype for p in half.method.parameters()} == {torch.float32}
    exact, found = (m.encode(picture).encoding.tensors["features"].float() for m in (model, half))
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, atol=0.05 * float(exact.abs().max()), rtol=0)
    # from the same encoding, the same answer: scores and labels are not rounded
    encoded = half.encode(picture)
    answers = [m.segment(encoded, WORDS[:20]) for m in (model, half)]
    assert np.array_equal(answers[0].confidence, answers[1].confidence)


def test_labels_reach_the_text_tower_once(run: Path, picture: np.ndarray) -> None:
    model = ovseg_ray.load(run)
    for labels in ("sky, grass", "grass, sky", "sky, car"):
        model.segment(picture, labels)
    assert model.embeddings.encoded == 3


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        ("missing.png", "sky", "missing.png: No such file"),
        (np.zeros((4, 4, 3)), "sky", "float64 of shape"),
        (np.zeros((4, 4, 2), np.uint8), "sky", "2 channels last"),
        (np.zeros((0, 4, 3), np.uint8), "sky", "of shape"),
        (np.zeros((4, 4, 3), np.uint8), "sky, sky", "label 'sky' stands twice"),
        (np.zeros((4, 4, 3), np.uint8), "sky,", "is empty"),
        (np.zeros((4, 4, 3), np.uint8), [], "no labels"),
        (np.zeros((4, 4, 3), np.uint8), "skyy", "not in the table"),
    ],
)
def test_mistakes_are_told_in_one_line(model: Segmenter, image: object, labels: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model.segment(image, labels)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_named(model: Segmenter, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with pytest.raises(UserError, match=r"half\.jpg"):
        model.segment(tmp_path / "half.jpg", "sky")


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        ovseg_ray.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run directory"):
        ovseg_ray.load(tmp_path)


def test_a_missing_device_is_named(run: Path) -> None:
    with pytest.raises(UserError, match="device 'cuda:99'"):
        ovseg_ray.load(run, "cuda:99")
    with pytest.raises(UserError, match="device 'gpu'"):
        ovseg_ray.load(run, "gpu")


def test_ray_is_not_imported(run: Path) -> None:
    code = (
        "import sys, numpy, ovseg_ray; assert 'torch' not in sys.modules; "
        f"ovseg_ray.load({str(run)!r}).segment(numpy.zeros((8, 8, 3), 'uint8'), 'sky, grass'); "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
