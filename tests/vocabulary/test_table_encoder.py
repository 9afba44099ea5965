"""Tables of given vectors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import LabelEmbeddings, Vocabulary, absolute_spec, build_text_encoder, load_text_encoder

REAL = Path(os.environ.get("OVSEG_RAY_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "clip_text"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="real data not found; set OVSEG_RAY_REAL_DATA")


def write(path: Path, names: list[str], rows: object, space: str = "S") -> Path:
    np.savez(path, names=np.array(names), embeddings=np.asarray(rows, dtype=np.float16), clip_model=np.array(space))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "t.npz", ["street_sign", "Dog", "cat", "dog"], [[3, 4], [0, 2], [1, 0], [5, 5]])


@pytest.mark.parametrize("text", ["street_sign", "street sign", "Street  Sign", "streetsign", " street_SIGN "])
def test_lookup_ignores_case_spaces_and_underscores(table: Path, text: str) -> None:
    row = build_text_encoder(f"table:{table}").encode([text])
    torch.testing.assert_close(row, torch.tensor([[0.6, 0.8]]))
    assert row.dtype == torch.float32


def test_the_first_of_equal_names_counts(table: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.npz", ["cat", "cow"], [[0, 1], [0, -7]])
    encoder = build_text_encoder(f"table:{table},{other}")
    torch.testing.assert_close(encoder.encode(["dog", "cat", "cow"]), torch.tensor([[0.0, 1], [1, 0], [0, -1]]))
    assert encoder.dim == 2


def test_unknown_text_names_the_nearest(table: Path) -> None:
    encoder = build_text_encoder(f"table:{table}")
    with pytest.raises(UserError, match=r"'dgo'.*nearest: Dog"):
        encoder.encode(["cat", "dgo"])
    with pytest.raises(UserError, match="bare template"):
        LabelEmbeddings(encoder).embed(Vocabulary.of(["cat"], ["a photo of a {}"]))
    with pytest.raises(UserError, match="no texts"):
        encoder.encode([])


def test_tables_of_two_spaces_do_not_join(table: Path, tmp_path: Path) -> None:
    for other in (write(tmp_path / "a.npz", ["x"], [[1, 0]], "T"), write(tmp_path / "b.npz", ["x"], [[1, 0, 0]])):
        with pytest.raises(UserError, match=rf"{other.name}.*one text model only"):
            build_text_encoder(f"table:{table},{other}")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"names": np.array(["a"])}, "no array .*embeddings"),
        ({"embeddings": np.ones((1, 2))}, "no array .*names"),
        ({"names": np.array(["a", "b"]), "embeddings": np.ones((1, 2))}, "2 names"),
        ({"names": np.array(["a"]), "embeddings": np.ones(1)}, "shape"),
        ({"names": np.array(["a", "b"]), "embeddings": np.array([[1, 0], [0, 0]])}, "vector of 'b' is zero"),
        ({"names": np.array(["a"]), "embeddings": np.array([[np.nan, 0]])}, "vector of 'a'"),
        ({"names": np.array(["a"], dtype=object), "embeddings": np.ones((1, 2))}, "without pickles"),
    ],
)
def test_bad_tables_are_explained(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        build_text_encoder(f"table:{tmp_path / 'bad.npz'}")


@pytest.mark.parametrize("content", [None, b"", b"no table", b"PK\x03\x04 cut off"])
def test_files_that_are_no_table(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz"):
        build_text_encoder(f"table:{path}")


def test_save_and_load_bit_for_bit(table: Path, tmp_path: Path) -> None:
    encoder = build_text_encoder(f"table:{table}")
    encoder.save(tmp_path / "text")
    again = load_text_encoder(tmp_path / "text")
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again.encode(["cat", "street sign"]), encoder.encode(["cat", "street sign"]))


def test_fingerprint_is_of_the_content(table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.npz"
    copy.write_bytes(table.read_bytes())
    other = write(tmp_path / "other.npz", ["street_sign", "Dog", "cat"], [[3, 4], [0, 2], [1, 0.01]])
    prints = [build_text_encoder(f"table:{path}").fingerprint for path in (table, copy, other)]
    assert prints[0] == prints[1] != prints[2]


def test_absolute_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("table:a.npz, sub/b.npz") == f"table:{tmp_path}/a.npz,{tmp_path}/sub/b.npz"
    assert absolute_spec("run:clip") == f"run:{tmp_path}/clip"
    assert absolute_spec("open_clip:ViT-B-32:openai") == "open_clip:ViT-B-32:openai"
    Path("w.safetensors").touch()
    assert absolute_spec("open_clip:ViT-B-32:w.safetensors") == f"open_clip:ViT-B-32:{tmp_path}/w.safetensors"


@pytest.mark.real_data
@needs_real_data
def test_clip_vectors_mean_what_they_say() -> None:
    encoder = build_text_encoder(f"table:{REAL / 'coco_stuff171_vitb16_multi.npz'},{REAL / 'voc20_vitb16_single.npz'}")
    vocabulary = Vocabulary.from_yaml("coco-stuff-171")
    vectors = LabelEmbeddings(encoder).embed(vocabulary)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(171))
    cosine = vectors @ vectors.T - 2 * torch.eye(171)
    for name, nearest in {"dog": "cat", "fork": "spoon", "bus": "train", "wall-brick": "wall-stone"}.items():
        ranked = [vocabulary.names[i] for i in cosine[vocabulary.index(name)].topk(3).indices]
        assert nearest in ranked, (name, ranked)
    # the rows of the second file live in the same space: its aeroplane is the first one's airplane
    aeroplane = encoder.encode(["aeroplane"])[0]
    assert vocabulary.names[int((vectors @ aeroplane).argmax())] == "airplane"


@pytest.mark.real_data
@needs_real_data
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coco-stuff-171", "coco_stuff171_vitb16_single"),
        ("coco-80", "coco80_vitb32"),
        ("pascal-voc-20", "voc20_vitb16_single"),
    ],
)
def test_shipped_sets_are_in_their_tables(name: str, files: str) -> None:
    vocabulary = Vocabulary.from_yaml(name)
    with np.load(REAL / f"{files}.npz") as table:
        assert [str(text) for text in table["names"]] == list(vocabulary.names)
    encoder = build_text_encoder(f"table:{REAL / files}.npz")
    if name != "pascal-voc-20":  # "tv monitor" is written apart there
        assert LabelEmbeddings(encoder).embed(vocabulary).shape == (len(vocabulary), 512)


@pytest.mark.real_data
@needs_real_data
def test_real_tables_of_two_models_do_not_join() -> None:
    with pytest.raises(UserError, match=r"'ViT-B/32'.*'ViT-B/16'"):
        build_text_encoder(f"table:{REAL / 'voc20_vitb16_single.npz'},{REAL / 'coco80_vitb32.npz'}")
