"""What a user can do wrong, through the commands: one sentence, status 2, no traceback; and what is odd but trains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_process import finish, start
from small_world import World, assert_one_sentence, call, metrics, run_recipe

from tbps.command import main

Rows = list[dict[str, Any]]
LIMIT = ["--data.limit-pairs", "32"]
"""One batch holds every pair, so what is wrong with one is met in the first step."""


@pytest.fixture
def cuhk_pedes(world: World, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return shutil.copytree(world.cuhk_pedes, tmp_path / "data")


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after one step."""
    runs = tmp_path_factory.mktemp("trained")
    assert run_recipe("mars", "tiny", *world.overrides(runs, max_steps=1)) == 0
    return runs / "mars/tiny"


def _change(root: Path, change: Callable[[Rows], None]) -> Rows:
    """Edit the annotations in place; returns the training rows as `change` left them."""
    rows: Rows = json.loads((root / "reid_raw.json").read_text())
    change([row for row in rows if row["split"] == "train"])
    (root / "reid_raw.json").write_text(json.dumps(rows))
    return [row for row in rows if row["split"] == "train"]


def _first_image(root: Path) -> Path:
    return root / "imgs" / _change(root, lambda rows: None)[0]["file_path"]


def _cut_json(root: Path) -> None:
    file = root / "reid_raw.json"
    file.write_text(file.read_text()[:-100])


def _cut_image(root: Path) -> None:
    file = _first_image(root)
    file.write_bytes(file.read_bytes()[:300])


def _folder_for_image(root: Path) -> None:
    file = _first_image(root)
    file.unlink()
    file.mkdir()


def _person_of_test_in_train(root: Path) -> None:
    rows: Rows = json.loads((root / "reid_raw.json").read_text())
    tested = next(row["id"] for row in rows if row["split"] == "test")
    _change(root, lambda rows: rows[0].update(id=f"{tested}"))


SPOILED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no folder": (shutil.rmtree, ["/data is not a folder; give the folder that holds reid_raw.json or caption_all.json"]),
    "no annotations": (
        lambda root: (root / "reid_raw.json").unlink(),
        ["/data is not cuhk-pedes: looked for reid_raw.json or caption_all.json, found ", "imgs"],
    ),
    "broken annotations": (_cut_json, ["reid_raw.json is not valid JSON: line ", "download it again"]),
    "no image": (
        lambda root: _first_image(root).unlink(),
        ["pair ", ": image ", " is not below ", 'run "tbps data doctor --all" to list every such image'],
    ),
    "a folder for an image": (_folder_for_image, ["pair ", ": image ", " is a folder, expected a file; run "]),
    "a person of test in train": (
        _person_of_test_in_train,
        ["/data has 1 identities in test and in train: ", "; correct the rows (tbps data doctor --all names them all)"],
    ),
    "image cut short": (_cut_image, ["pair ", "its image file (300 bytes) cannot be decoded", "download it again"]),
    "empty caption": (
        lambda root: _change(root, lambda rows: rows[3].update(captions=[" . "])),
        ["pair ", "#0: its caption ' . ' has no word left after cleaning", "correct the caption or remove the pair"],
    ),
    "no caption": (
        lambda root: _change(root, lambda rows: rows[3].update(captions=[])),
        ["reid_raw.json, row ", "'captions' is [], expected a list of strings; correct the row"],
    ),
}


IN_WORKERS = ("image cut short", "a folder for an image")


@pytest.mark.parametrize(("name", "workers"), [*((name, "0") for name in SPOILED), *((name, "1") for name in IN_WORKERS)])
def test_a_spoiled_data_set(
    name: str, workers: str, world: World, cuhk_pedes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, parts = SPOILED[name]
    spoil(cuhk_pedes)
    words = [*world.overrides(tmp_path / "runs"), *LIMIT, "--data.root", str(cuhk_pedes), "--data.workers", workers]
    assert run_recipe("mars", "tiny", *words) == 2
    assert_one_sentence(capsys.readouterr().err, "mars: ", *parts)
    # the doctor finds the same, or cannot read the folder either
    assert main(["data", "doctor", str(cuhk_pedes), "--benchmark", "cuhk-pedes", "--decode"]) in (1, 2)
    told = capsys.readouterr()
    assert "NOT USABLE" in told.out or told.err.startswith("tbps: "), told


def _long_captions(rows: Rows) -> None:
    rows[0]["captions"][0] = "a man with a red shirt " * 100  # 600 words


def _lonely_image(rows: Rows) -> None:
    rows[0]["id"] = 999_999


def _one_identity(rows: Rows) -> None:
    for row in rows:
        row["id"] = 1


@pytest.mark.parametrize("change", [_long_captions, _lonely_image, _one_identity])
def test_odd_data_trains(change: Callable[[Rows], None], world: World, cuhk_pedes: Path, tmp_path: Path) -> None:
    _change(cuhk_pedes, change)
    quiet = ["--evaluation.every-epochs", "0", "--evaluation.test", "False"]
    words = ["--data.root", str(cuhk_pedes), *LIMIT, "--data.weak-positive-probability", "1.0", *quiet]
    assert run_recipe("mars", "tiny", *world.overrides(tmp_path / "runs", max_steps=2), *words) == 0
    assert [line["step"] for line in metrics(tmp_path / "runs/mars/tiny")[:2]] == [1, 2]


def test_a_caption_of_500_words_is_cut_and_counted(
    world: World, trained: Path, cuhk_pedes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((cuhk_pedes / "reid_raw.json").read_text())
    next(row for row in rows if row["split"] == "test")["captions"][0] = "red shirt " * 250
    (cuhk_pedes / "reid_raw.json").write_text(json.dumps(rows))
    run_folder = shutil.copytree(trained, tmp_path / "run")
    assert main(["evaluate", str(run_folder), "--root", str(cuhk_pedes)]) == 0
    told = capsys.readouterr().out
    assert "1 captions were cut" in told
    result = Path(told.partition("trial, written to ")[2].partition(";")[0])
    assert json.loads(result.read_text())["size"]["cut_captions"] == 1
    assert main(["data", "doctor", str(cuhk_pedes), "--benchmark", "cuhk-pedes"]) == 0
    assert "more than 100 words" in capsys.readouterr().out


def _cut_shard(shards: Path) -> None:
    tar = shards / "train-0000.tar"
    os.truncate(tar, tar.stat().st_size // 2)


def _change_image(shards: Path) -> None:
    """A bit of the first image."""
    tar = bytearray((shards / "train-0000.tar").read_bytes())
    tar[600] ^= 1
    (shards / "train-0000.tar").write_bytes(tar)


@pytest.mark.parametrize(
    ("spoil", "part"), [(_cut_shard, "shard train-0000.tar: "), (_change_image, "has other content than its index says")]
)
def test_spoiled_shards(
    spoil: Callable[[Path], None], part: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = shutil.copytree(world.shards, tmp_path / "shards")
    spoil(shards)
    words = [*world.overrides(tmp_path / "runs", recipe="pretrain_mals"), *LIMIT, "--data.root", str(shards)]
    assert run_recipe("pretrain_mals", "tiny", *words) == 2
    assert_one_sentence(capsys.readouterr().err, part, 'run "tbps data verify" and create the shards again')
    assert main(["data", "verify", str(shards)]) == 1
    assert "shard train-0000.tar: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--method.bert.vocabulary-size", "600"], ["has 500 entries but the text encoder was built for 600"]),
        (["--data.captioning.vocabulary", "nowhere/vocab.txt"], ["vocabulary nowhere/vocab.txt does not exist"]),
        (["--start.weights", "nowhere.safetensors"], ["nowhere.safetensors", "No such file"]),
        (["--start.weights", "README.md"], ["README.md: not a readable safetensors file", "`tbps convert`"]),
        (
            ["--start.weights", "TRAINED", "--method.vit.width", "32"],
            ["model.safetensors: not of this architecture (", "choose the recipe"],
        ),
        (["--start.weights", "TRAINED", "--start.sha256", "00"], ["has sha256 ", "expected 00"]),
        (
            ["--method.weights.mlm", "0"],  # the momentum encoder's word head still draws the words of m-RTD
            ["starting from random weights: online.word_head.bias, ", " would stay random, because", "start from weights"],
        ),
        (["--data.benchmark", "icfg-pedes"], ["is not icfg-pedes: looked for ICFG-PEDES.json"]),
        (["--data.micro-batch-pairs", "48"], ["data.micro_batch_pairs is 48, expected a divisor of the 32 pairs"]),
        (
            ["--method.temperature", "1e-38"],
            [" in step 1 (pairs ", "this update was not applied and the last checkpoint is as it was", "lower optim.lr"],
        ),
    ],
)
def test_wrong_settings(
    words: list[str], parts: list[str], world: World, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(trained) if word == "TRAINED" else word for word in words]
    assert run_recipe("mars", "tiny", *world.overrides(tmp_path), *given) == 2
    assert_one_sentence(capsys.readouterr().err, "mars: ", *parts)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", ""], "the run's name is '', expected the name of a folder"),
        (["--name", "../../esc"], "the run's name is '../../esc', expected the name of a folder"),
        (["--name", ".."], "the run's name is '..', expected"),
        (["--name", "a "], "the run's name is 'a ', expected the name of a folder without / or spaces at its ends"),
        (["--name", "a\nb"], "the run's name is 'a\\nb', expected one line of printable characters"),
        (["--name", "50%j"], "the run's name is '50%j'; Slurm gives % and \\ a meaning in file names"),
        (["--recipe", "../mars"], "the recipe's name is '../mars', expected the name of a folder"),
        (["--runs", ""], "the folder of runs is '', expected a folder; a dot means the current one"),
        (["--runs", "a\tb"], "the folder of runs is 'a\\tb', expected one line"),
        (["--runs", "~no-such-user/runs"], "and ~no-such-user is no user of this machine; write the path in full"),
    ],
)
def test_a_name_is_one_folder_however_the_run_is_started(
    words: list[str], sentence: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*world.overrides(tmp_path / "inside" / "runs", max_steps=1), *words]
    assert run_recipe("mars", "tiny", *given) == 2
    assert_one_sentence(capsys.readouterr().err, sentence)
    assert not any(tmp_path.iterdir())


def test_wrong_words_to_evaluate(world: World, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (
        ([str(trained), "--split", "nope"], "has no split 'nope': it has train, val, test; choose one of them"),
        ([str(trained), "--on", "rstpreid"], "name the folder of rstpreid with --root"),
        ([str(tmp_path)], "holds no config.json, expected a run folder"),
    ):
        assert main(["evaluate", *words]) == 2
        assert_one_sentence(capsys.readouterr().err, "tbps: ", part)
    assert main(["report", str(tmp_path)]) == 2
    assert_one_sentence(capsys.readouterr().err, "tbps: ", "config.json cannot be read")
    (tmp_path / "official.pth").write_bytes(b"no tensors")
    for source, part in (
        (tmp_path / "none.pth", "found nothing, expected a file of weights"),
        (tmp_path / "official.pth", ""),
    ):
        assert main(["convert", str(source), str(tmp_path / "out.safetensors")]) == 2
        assert_one_sentence(capsys.readouterr().err, "tbps: ", source.name, part)
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "official.pth")
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "out.safetensors")]) == 2
    assert_one_sentence(capsys.readouterr().err, "tbps: ", "are of no known kind")


@pytest.mark.slow
def test_the_process_says_one_sentence_too() -> None:
    done = call(sys.executable, "recipes/mars.py", "cuhk-pedes", "--data.captioning.vocabulary", "nowhere/vocab.txt")
    assert done.returncode == 2
    device, *told = done.stderr.splitlines()
    assert device.startswith("rank 0 on ")
    assert_one_sentence("\n".join(told), "mars: vocabulary nowhere/vocab.txt does not exist")


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_and_the_same_command_goes_on(world: World, tmp_path: Path) -> None:
    log, arguments = tmp_path / "log", ["tiny", *world.overrides(tmp_path, max_steps=4), "--loop.save-steps", "2"]
    assert finish(arguments, log, largest_file=100_000) == 2
    told = log.read_text().splitlines()
    assert_one_sentence(told[-1], "step-00000002 could not be written: ", "File too large", "there is no earlier checkpoint")
    assert "Traceback" not in log.read_text()
    assert not any((tmp_path / "mars/tiny/checkpoints").iterdir())
    assert finish(arguments, log) == 0, log.read_text()


@pytest.mark.slow
def test_control_c_saves_and_the_same_command_goes_on(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    changes = ["--loop.log-steps", "1", "--data.workers", "1"]
    arguments = ["tiny", *world.overrides(tmp_path, max_steps=8), *changes]
    process = start(arguments, log)
    deadline = time.monotonic() + 60
    while not log.exists() or "step 2/8" not in log.read_text():
        assert process.is_alive() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the loader workers as well
    process.join(60)
    assert process.exitcode == 130
    assert "Traceback" not in log.read_text(), log.read_text()
    step = int(log.read_text().partition("stopped as asked after step ")[2].split()[0])
    assert (tmp_path / f"mars/tiny/checkpoints/step-{step:08d}/manifest.json").exists()
    assert finish(arguments, log) == 0, log.read_text()
    assert f"({step} steps done)" in log.read_text()
    assert [line["step"] for line in metrics(tmp_path / "mars/tiny") if "split" not in line] == list(range(1, 9))
