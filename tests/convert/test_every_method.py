"""Every method handed on: what its export holds, ONNX of both encoders, search.py with three packages and no torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exportable_runs import CAPTIONS, shallow, untrained_run, write_pictures
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tbps.command import main
from tbps.config.data import Pixels
from tbps.convert import onnx_encoders, search_script
from tbps.convert.files import sha256_of
from tbps.data.opening import evaluation_encoder
from tbps.finished import Finished, load_model, open_finished
from tbps.methods.method import EmbeddedImages, Method
from tbps.text.captions import make_captions
from tbps.text.token_batch import Captions

NUM_QUERIES = 200
TOP = 10
ALLOWED = ("numpy", "numpy.libs", "onnxruntime", "PIL", "pillow.libs")


METHODS = ("albef", "rasa", "mars", "aga", "laip", "aptm", "clip", "irra", "bilma", "bamg")
"""Recipes of the methods; the eleventh, `toy`, cuts its captions itself."""
HEADS = {
    "irra": ("classifier (2 tensors)", "cross_former (30 tensors)", "word_head (6 tensors)"),
    "bilma": ("classifier (2 tensors)", "cross_modal_encoder ("),
    "bamg": ("temperature (1 tensor)", "word_head (6 tensors)", "body_graph (15 tensors)"),
    "aptm": ("temperature (1 tensor)", "online.word_head (5 tensors)"),
    "albef": ("temperature (1 tensor)", "momentum_encoder (", "queue ("),
    "mars": ("online.word_head (5 tensors)", "prd_head (2 tensors)", "mrtd_head (2 tensors)", "mae_decoder (24 tensors)"),
    "clip": ("logit_scale (1 tensor)",),
}
"""What an export leaves out, of some of them."""


@pytest.fixture(scope="module", params=METHODS)
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return untrained_run(request.param, tmp_path_factory.mktemp("run"), shallow)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    assert main(["export", str(run), str(folder / "model"), "--onnx"]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), number=40)


def _queries() -> list[str]:
    """Sentences of all lengths."""
    parts = [part.strip() for caption in CAPTIONS for part in caption.replace(",", ".").split(".") if part.strip()]
    return [*CAPTIONS, *parts, *(f"{one}. {other}." for one, other in zip(parts, parts[7:]))][:NUM_QUERIES]


def _captions(opened: Finished, sentences: list[str]) -> Captions:
    encoder = evaluation_encoder(opened.run.data.captioning, opened.tokeniser())
    return make_captions(encoder.encode_many(sentences, sentences))


def _by_torch(exported: Path, pictures: list[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of sentences and pictures as evaluation makes them."""
    model = load_model(exported)
    return model.embed_text(_queries()), model.embed_images(pictures)


@pytest.mark.slow
def test_features_and_the_best_ten_are_torchs(exported: Path, pictures: list[Path]) -> None:
    model = search_script.Model(exported)
    sentences = model.embed_sentences(_queries())
    rows, read, refused = model.embed_pictures(pictures)
    assert len(sentences) == NUM_QUERIES and read == pictures and not refused
    expected_sentences, expected_rows = _by_torch(exported, pictures)
    assert (sentences * expected_sentences).sum(1).min() > onnx_encoders.LEAST_COSINE
    assert (rows * expected_rows).sum(1).min() > onnx_encoders.LEAST_COSINE
    best, expected = (
        np.argsort(-(one @ other.T), axis=1, kind="stable")[:, :TOP]
        for one, other in ((sentences, rows), (expected_sentences, expected_rows))
    )
    assert np.array_equal(best, expected)
    alone = np.concatenate([model.embed_sentences([query]) for query in _queries()[:5]])
    assert np.abs(alone - sentences[:5]).max() < 1e-5  # padding changes nothing
    assert np.abs(model.embed_pictures(pictures[:1])[0] - rows[:1]).max() < 1e-5
    assert len(np.unique(np.round(rows @ sentences.T, 4))) > 100, "features that are all alike would pass anything"


def _read(method: Method, opened: Finished, image_BCHW: Tensor) -> list[Tensor]:
    """All that ranking and re-ranking make of some images and captions."""
    captions = _captions(opened, [*CAPTIONS[:3]])
    with torch.no_grad():
        images, embedded = method.embed_images(image_BCHW), method.embed_captions(captions)
        found = [images.feature_IE, embedded.feature_QE]
        if (matcher := method.matcher()) is not None:
            assert images.tokens_IPD is not None
            image_M, caption_M = np.arange(9) % 4, np.arange(9) // 3
            scorer = matcher.prepare(captions, embedded.hidden_ND)
            found.append(scorer(image_IPD=images.tokens_IPD, image_M=image_M, caption_M=caption_M))
    return found


@pytest.mark.slow
def test_an_export_holds_what_a_search_reads_and_nothing_else(run: Path, exported: Path) -> None:
    opened, own = open_finished(exported), open_finished(run)
    image_BCHW = torch.randn(4, 3, *own.run.data.image_px, generator=torch.Generator().manual_seed(0))
    method = opened.method()
    held = load_file(exported / "model.safetensors").keys()
    for name, tensor in method.state_dict().items():
        if name not in held and tensor.is_floating_point():
            tensor.fill_(torch.nan)  # whatever is read of it shows
    expected = _read(own.method(merged=True), own, image_BCHW)
    assert all(map(torch.equal, _read(method, opened, image_BCHW), expected))
    heads = {name: tensor for name, tensor in method.state_dict().items() if name in held}
    groups = {".".join(name.split(".")[:2]) for name in heads if not name.startswith(tuple(method.encoders))}
    for group in groups:
        parts = [tensor for name, tensor in heads.items() if f"{name}.".startswith(f"{group}.")]
        kept = [tensor.clone() for tensor in parts]
        for tensor in parts:
            tensor.fill_(torch.nan)
        assert any(found.isnan().any() for found in _read(method, opened, image_BCHW)), f"nobody reads {group}"
        for tensor, before in zip(parts, kept, strict=True):
            tensor.copy_(before)


@pytest.mark.slow
def test_the_card_names_what_is_left_out(run: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("- Left out, as only training reads it: ")]
    assert all(head in line for head in HEADS.get(run.parent.name, ()))


@pytest.mark.slow
def test_an_export_of_before_which_holds_these_heads_is_read(run: Path, exported: Path, tmp_path: Path) -> None:
    old = shutil.copytree(exported, tmp_path / "old")
    whole = open_finished(run).method(merged=True).state_dict()
    kept = {name: tensor for name, tensor in whole.items() if not name.startswith(("momentum_encoder.", "queue."))}
    with safe_open(old / "model.safetensors", framework="pt") as file:
        facts = file.metadata()
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, old / "model.safetensors", facts)
    config = json.loads((old / "config.json").read_text())
    config["export"]["file_sha256"]["model.safetensors"] = sha256_of(old / "model.safetensors")
    (old / "config.json").write_text(json.dumps(config))
    read = open_finished(old).method().state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in kept.items())


@pytest.mark.slow
def test_the_graphs_are_what_is_said(exported: Path) -> None:
    for name in (onnx_encoders.IMAGE_FILE, onnx_encoders.CAPTION_FILE):
        graph = onnx.load(exported / name)
        onnx.checker.check_model(graph, full_check=True)
        assert [one.version for one in graph.opset_import if one.domain == ""] == [onnx_encoders.OPSET]
    inputs = onnxruntime.InferenceSession(str(exported / onnx_encoders.CAPTION_FILE)).get_inputs()
    assert [(one.name, one.type) for one in inputs] == [("token_ids", "tensor(int64)"), ("lengths", "tensor(int64)")]
    (pixels,) = onnxruntime.InferenceSession(str(exported / onnx_encoders.IMAGE_FILE)).get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [3, 64, 32])


def _search(exported: Path, packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """search.py under a Python that sees three packages and nothing else that is installed."""
    script = f"import sys, runpy; sys.path[:0] = [{str(packages)!r}]; sys.argv = {['search.py', *words]!r};"
    script += f"runpy.run_path({str(exported / 'search.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"},
    )


@pytest.mark.slow
def test_the_script_finds_pictures_without_torch(exported: Path, run: Path, tmp_path: Path) -> None:
    if run.parent.name not in ("clip", "mars"):
        pytest.skip("one method for each tokeniser is enough")
    for name in ALLOWED:
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / "packages" / name).symlink_to(Path(np.__file__).parents[1] / name)
    paths = write_pictures(tmp_path / "pictures/below", number=6)
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    (tmp_path / "pictures/empty.jpg").touch()
    sentence = "A woman in a red coat, who carries a bag."
    done = _search(exported, tmp_path / "packages", str(tmp_path / "pictures"), sentence, "--best", "4")
    assert done.returncode == 0, done.stderr
    assert "search.py: 2 of 8 files cannot be read: " in done.stderr and "empty.jpg (" in done.stderr
    model = search_script.Model(exported)
    similarity = model.embed_pictures(paths)[0] @ model.embed_sentences([sentence])[0]
    order = np.argsort(-similarity, kind="stable")[:4]
    assert done.stdout.splitlines() == [f"{similarity[place]:.4f}  {paths[place]}" for place in order]
    for words, said in (
        ((str(tmp_path / "pictures"), " , "), "holds no word; write a description"),
        ((str(tmp_path / "absent"), "a man"), "absent holds no picture that can be read; check the path"),
    ):
        done = _search(exported, tmp_path / "packages", *words)
        if not (run.parent.name == "clip" and words[1] == " , "):  # a comma is a token of CLIP
            assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_method_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Own(Method):
        def embed_images(self, image_BCHW: torch.Tensor) -> object:  # type: ignore[override]
            return None

    ids = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"Own cannot be written as ONNX: it does not define embed_padded\(self, token_id_BL"
    ):
        Own(weights={}).embed_padded(ids, torch.tensor([2]))


UNREACHABLE = ("Name or service not known", "Temporary failure in name resolution", "Failed to establish a new connection")
"""What pip says without a network."""


@pytest.mark.slow
def test_the_commands_of_the_page_in_a_fresh_environment(exported: Path, run: Path, tmp_path: Path) -> None:
    if run.parent.name != "irra":
        pytest.skip("the page's method is enough")
    page = (Path(__file__).parents[2] / "tbps/convert/README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}(python -m venv fresh|fresh/bin/.*)$", page, flags=re.MULTILINE)
    assert [command.split(" ")[0] for command in commands] == ["python", "fresh/bin/pip", "fresh/bin/python"]
    (tmp_path / "exported").mkdir()
    shutil.copytree(exported, tmp_path / "exported/irra-onnx")
    paths = write_pictures(tmp_path / "pictures", number=7)
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    plain["PIP_NO_COMPILE"] = "1"  # of thousands of files, few are imported
    for command in commands:
        words = [sys.executable if word == "python" else word for word in shlex.split(command)]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=plain,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if "pip" in command and any(said in done.stderr for said in UNREACHABLE):
            pytest.skip("pip reaches no package index from here")
        assert done.returncode == 0, done.stderr
    asked = [str(tmp_path / "fresh/bin/python"), "-c", "import numpy, onnxruntime, PIL, importlib.util as util, sys\n"]
    asked[-1] += "print([name for name in ('torch', 'tbps', 'transformers') if util.find_spec(name)], sys.prefix)"
    found = subprocess.run(asked, cwd=tmp_path, env=plain, capture_output=True, text=True, check=True)
    assert found.stdout.split(" ", 1)[0] == "[]" and str(tmp_path) in found.stdout
    model = search_script.Model(exported)
    similarity = model.embed_pictures(paths)[0] @ model.embed_sentences(["a woman in a red coat"])[0]
    best = np.argsort(-similarity, kind="stable")[:5]
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [name for _, name in lines] == [f"pictures/{paths[place].name}" for place in best]
    assert all(abs(float(number) - similarity[place]) < 2e-4 for (number, _), place in zip(lines, best, strict=True))


def test_a_method_that_fixes_a_number_of_images_is_refused(tmp_path: Path) -> None:
    class Fixed(Method):
        def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
            return EmbeddedImages(feature_IE=image_BCHW.mean((2, 3)) + torch.ones(3).expand(len(image_BCHW), -1))

    with pytest.raises(ValueError, match=r"image_encoder.onnx would take 3 images and no other number: len\(\) of a tensor"):
        onnx_encoders.write_onnx(Fixed(weights={}), tmp_path, image_px=(8, 8), pixels=Pixels(), max_tokens=5, vocabulary=9)


def test_a_method_with_a_tokeniser_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "extension"))
    run = untrained_run("toy.recipe", tmp_path)
    assert main(["export", str(run), str(tmp_path / "model"), "--onnx"]) == 2
    said = capsys.readouterr().err
    assert "captions are cut by " in said and "which search.py cannot do" in said and said.count("\n") == 1
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
