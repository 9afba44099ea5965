"""Which addresses pictures are fetched from, and that an allowed name cannot lead into the server's own network."""

from __future__ import annotations

import asyncio

import pytest

from ovseg_ray.serving import fetching
from ovseg_ray.serving.config import LimitsConfig
from ovseg_ray.serving.problems import ProblemError

LIMITS = LimitsConfig(url_hosts=["images.example.org", "localhost"])


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.org/a.jpg",
        "https://example.org/a.jpg",
        "https://images.example.org.evil.org/a.jpg",
        "https://images.example.org:8443/a.jpg",
        "https://user@images.example.org/a.jpg",
        "https://evil.org@images.example.org/a.jpg",
        "https://evil.org/images.example.org",
        "https://[::1]/a.jpg",
        "https://images.example.org:x/a.jpg",
        "https://",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(fetching.fetch(url, LIMITS))
    assert caught.value.code == "url_not_allowed"


def test_a_name_that_leads_inside_is_not_followed() -> None:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(fetching.fetch("https://localhost/a.jpg", LIMITS))
    assert caught.value.code == "fetch_failed"


def test_allowed_hosts_are_asked() -> None:
    assert fetching._allowed("https://Images.Example.org/a.jpg?x=1", LIMITS) == "images.example.org"
