"""`tbps.load` and `tbps embed`, of a run and of its export: the features of evaluation, in the order given."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exportable_runs import CAPTIONS, untrained_run, write_pictures
from PIL import Image
from pyarrow import parquet

import tbps
from tbps.command import main
from tbps.finished import open_finished
from tbps.search.model import SearchModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run("mars", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parents[2] / "exported"
    assert main(["export", str(run), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def model(exported: Path) -> SearchModel:
    return tbps.load(exported)


def test_importing_tbps_loads_nothing_heavy() -> None:
    script = "import sys, tbps; print([name for name in ('torch', 'numpy', 'PIL', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_and_its_export_embed_alike(run: Path, model: SearchModel, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, number=5)
    own = tbps.load(str(run))
    rows, text = own.embed_images(paths), own.embed_text(CAPTIONS)
    assert rows.dtype == text.dtype == np.float32 and rows.shape == (5, 64) and text.shape == (len(CAPTIONS), 64)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5) and np.allclose(
        np.linalg.norm(text, axis=1), 1, atol=1e-5
    )
    assert np.array_equal(model.embed_images([str(path) for path in paths]), rows)
    assert np.array_equal(model.embed_images([Image.open(path) for path in paths]), rows)
    assert np.array_equal(model.embed_text(CAPTIONS), text)
    assert np.abs(model.score(CAPTIONS[:3], paths) - text[:3] @ rows.T).max() < 1e-5
    assert model.weights_sha256 == open_finished(run).weights_sha256
    assert len(np.unique(np.round(rows @ text.T, 5))) > 100
    many = model.embed_text([*CAPTIONS] * 6)  # over one batch
    assert np.abs(many - np.tile(text, (6, 1))).max() < 1e-5


def test_wrong_input_is_one_sentence(model: SearchModel, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    for call, sentence in (
        (lambda: model.embed_text("a man"), "sentences is the text 'a man', expected a list of texts"),
        (lambda: model.embed_text(["a man", " ?! "]), "sentence 1 is ' \\?! ', in which no word is left after cleaning"),
        (lambda: model.embed_text([]), "nothing to embed: the list is empty"),
        (lambda: model.embed_images("a.jpg"), "images is 'a.jpg', expected a list of paths or images"),
        (lambda: model.embed_images([tmp_path / "absent.jpg"]), r"absent\.jpg cannot be read \(No such file"),
        (lambda: model.embed_images([tmp_path / "broken.jpg"]), r"broken\.jpg: its image file .* cannot be decoded"),
        (lambda: model.embed_images([Image.new("F", (9, 9))]), "its pixels are of mode F"),
        (lambda: tbps.load(tmp_path), r"holds no config\.json, expected a run folder .*, what tbps export wrote, or hf:"),
        (lambda: tbps.load("hf:one"), "'one' is no name of the Hugging Face hub, expected NAMESPACE/NAME"),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_vectors_of_pictures_and_captions(
    exported: Path, model: SearchModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    paths = write_pictures(tmp_path / "pictures/a", number=3)
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    (tmp_path / "pictures/broken.png").write_bytes(b"\x89PNG broken")
    capsys.readouterr()
    out = tmp_path / f"out/images.{suffix}"
    assert main(["embed", str(exported), "--images", str(tmp_path / "pictures"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 3 pictures, 64 numbers each\n2 files cannot be read: notes.txt (" in said and "broken.png (" in said
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS[:4]))
    texts = tmp_path / f"out/captions.{suffix}"
    assert main(["embed", str(exported), "--captions", str(tmp_path / "captions.txt"), "--out", str(texts)]) == 0
    expected = (
        (out, "path", [f"a/{path.name}" for path in paths], model.embed_images(paths)),
        (texts, "caption", list(CAPTIONS[:4]), model.embed_text(CAPTIONS[:4])),
    )
    for file, column, names, rows in expected:
        if suffix == "npy":
            assert np.array_equal(np.load(file), rows)
            assert file.with_suffix(".txt").read_text().splitlines() == names
        else:
            table = parquet.read_table(file)
            assert table[column].to_pylist() == names
            assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), rows)
    before = sorted(file.name for file in out.parent.iterdir())
    for words, sentence in (
        (("--images", str(tmp_path / "pictures"), "--out", str(out)), "exists and is left as it is"),
        (("--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "a.csv")), "ends in .npy or .parquet"),
        (("--images", str(tmp_path / "out"), "--out", str(tmp_path / "b.npy")), "holds no picture that can be read"),
        (("--captions", str(tmp_path / "absent"), "--out", str(tmp_path / "b.npy")), "absent cannot be read (No such file"),
        (("--captions", str(tmp_path / "pictures/broken.png"), "--out", str(tmp_path / "b.npy")), "is not UTF-8 text"),
    ):
        capsys.readouterr()
        assert main(["embed", str(exported), *words]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert sorted(file.name for file in out.parent.iterdir()) == before


def test_a_line_without_a_word_is_named(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "captions.txt").write_text("A man.\n\nA woman.\n")
    out = tmp_path / "a.npy"
    assert main(["embed", str(exported), "--captions", str(tmp_path / "captions.txt"), "--out", str(out)]) == 2
    assert "captions.txt, line 2 is '', in which no word is left after cleaning; remove it" in capsys.readouterr().err


def test_a_picture_of_sixteen_bits_is_as_from_its_file(model: SearchModel, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (64, 32), np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    (tmp_path / "deep.png").write_bytes(buffer.getvalue())
    by_path = model.embed_images([tmp_path / "deep.png"])
    assert np.array_equal(model.embed_images([Image.open(buffer)]), by_path)
