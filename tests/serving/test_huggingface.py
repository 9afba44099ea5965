"""Image segmentation as Hugging Face's own client asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from serving_tools import encoded, picture
from starlette.testclient import TestClient

from ovseg_ray.serving.engine import Engine

LABELS = ["sky", "grass", "sand"]


def ask(live: tuple[str, Engine], address: str, **parameters: Any) -> list[Any]:
    client = InferenceClient(model=f"{live[0]}{address}", token="hf_none")
    return client.image_segmentation(encoded(picture()), **parameters)


def masks(found: list[Any]) -> dict[str, np.ndarray]:
    return {element.label: np.asarray(element.mask) for element in found}


def test_labels_in_the_address(live: tuple[str, Engine]) -> None:
    found = ask(live, "/hf/second?candidate_labels=sky,grass,sand")
    truth = live[1].models.get("second").segmenter.segment(picture(), LABELS)
    for element in found:
        index = LABELS.index(element.label)
        assert np.array_equal(np.asarray(element.mask) == 255, truth.label_map == index)
        assert element.mask.mode == "L"
        assert element.score == pytest.approx(truth.confidence[truth.label_map == index].mean(), abs=1e-4)
    assert sum((mask > 0).sum() for mask in masks(found).values()) == truth.label_map.size


def test_without_labels_those_of_training_are_asked(live: tuple[str, Engine]) -> None:
    trained = masks(ask(live, "/hf"))
    asked = masks(ask(live, "/hf/first?candidate_labels=grass,sand,snow"))
    assert trained.keys() == asked.keys() <= {"grass", "sand", "snow"}
    assert all(np.array_equal(trained[name], asked[name]) for name in trained)


def test_a_form_is_told_where_to_go(client: TestClient) -> None:
    answer = client.post("/hf", files={"image": encoded(picture())})
    assert answer.status_code == 415
    assert answer.json()["error"] == "multipart/form-data: send JSON or a picture; forms go to /v1/segment"


def test_thresholds(live: tuple[str, Engine]) -> None:
    address = "/hf?candidate_labels=sky,grass,sand"
    every = ask(live, address)
    scores = sorted(element.score for element in every)
    kept = ask(live, address, threshold=scores[-1], subtask="semantic")
    assert [element.score for element in kept] == [scores[-1]]
    truth = live[1].models.get(None).segmenter.segment(picture(), LABELS)
    least = float(np.median(truth.confidence))
    sure = masks(ask(live, address, mask_threshold=least))
    assert sum((mask > 0).sum() for mask in sure.values()) == (truth.confidence >= least).sum()


@pytest.mark.parametrize(
    ("address", "parameters", "words"),
    [
        ("/hf?candidate_labels=sky,nobody+knows", {}, "nobody knows"),
        ("/hf", {"subtask": "panoptic"}, "semantic"),
        ("/hf/third", {}, "no model"),
        ("/hf?threshhold=1", {}, "threshhold"),
    ],
)
def test_errors_reach_the_client_in_words(
    live: tuple[str, Engine], address: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(HfHubHTTPError, match=words):
        ask(live, address, **parameters)
