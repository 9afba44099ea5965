from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colour_method import COLOURS, ColourText, make_dataset

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.networks import ImageEncoderConfig
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an exported LSeg of random weights that was "trained" on red, green and blue."""
    torch.manual_seed(0)
    config = LSegConfig(text="table:colours", width=8, encoder=ImageEncoderConfig(channels=(8, 8, 8, 8)))
    method = LSeg(config)
    method.use_text_encoder(TableTextEncoder(list(COLOURS), ColourText().encode(list(COLOURS))))
    method.prepare([Vocabulary.of(["red", "green", "blue"])])
    run = tmp_path_factory.mktemp("tiny") / "run"
    save_model(method, run / "model", vocabularies=[], provenance={"seed": 0})
    return run


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Twenty small images of four colours in two families; yellow is held out."""
    dataset = make_dataset(
        tmp_path_factory.mktemp("colours"), 20, ["red", "green", "blue", "yellow"], sizes=((12, 16), (8, 8))
    )
    return replace(dataset, parents={"red": "warm", "yellow": "warm", "green": "cold", "blue": "cold"})
