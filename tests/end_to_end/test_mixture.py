"""Two data sets three to one, by processes that are killed and go on at other world sizes: the same pairs in order."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from interrupted_run import kill_tree, newest_step
from ready_python import Ready
from small_world import REPOSITORY, World, assert_one_sentence, call, environment, launch, metrics, run_recipe

from tbps.command import main
from tbps.data.sample_order import MixtureOrder, Share

STEPS = 20
PROCESS = "tests/end_to_end/mixture_process.py"
BATCH = 32


def arguments(world: World, runs: Path) -> list[str]:
    """ALBEF on shards of MALS and a folder of COCO, with dropout; a checkpoint after every step."""
    words = [*world.overrides(runs, recipe="pretrain_mals", max_steps=STEPS), "--schedule.epochs", "9"]
    words += ["--data.sources", "mals:3", "coco:1", "--data.roots", f"coco={world.coco}", "--data.group-pairs", "8"]
    words += ["--method.bert.dropout", "0.1", "--loop.save-steps", "1", "--loop.log-steps", "1"]
    return ["tiny-albef", *words]


def start(words: list[str], notes: Path, *, processes: int, workers: int) -> Ready:
    """`torchrun` of the recipe that also notes its pairs."""
    notes.mkdir(exist_ok=True)
    launcher = launch(processes) if processes > 1 else (sys.executable,)
    command = [*launcher, PROCESS, str(notes), "recipes/pretrain_mals.py", *words, "--data.workers", str(workers)]
    log = notes / "log"
    return Ready(command, folder=REPOSITORY, variables=environment(), output=log, errors=log)


def noted(notes: Path) -> dict[int, list[str]]:
    """Keys of each step in the order of the global batch, where every rank told of it."""
    ranks: dict[int, dict[int, list[str]]] = {}
    for file in notes.glob("*.jsonl"):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            ranks.setdefault(line["step"], {}).setdefault(line["rank"], []).extend(line["keys"])
    steps = {step: [key for rank in sorted(parts) for key in parts[rank]] for step, parts in ranks.items()}
    return {step: keys for step, keys in steps.items() if len(keys) == BATCH}


def keys_of(world: World) -> list[str]:
    """All pairs' keys, as the annotation files have them."""
    rows = [row for file in sorted(world.mals.glob("gene_attrs/*.json")) for row in json.loads(file.read_text())]
    keys = [f"mals/{row['image']}#0" for row in rows]
    images = json.loads((world.coco / "dataset_coco.json").read_text())["images"]
    train = [image for image in images if image["split"] in ("train", "restval")]
    places = [(f"{image['filepath']}/{image['filename']}", number) for image in train for number in range(5)]
    return [*keys, *(f"coco/{path}#{number}" for path, number in places)]


@pytest.mark.slow
def test_killed_and_resumed_at_other_world_sizes_the_same_pairs_come_in_the_same_order(world: World, tmp_path: Path) -> None:
    keys = keys_of(world)
    shares = [Share(name="mals", num_pairs=64, weight=3), Share(name="coco", num_pairs=len(keys) - 64, weight=1)]
    order = MixtureOrder(shares, seed=42)
    expected = {
        step: [keys[order.at(place)[1]] for place in range(step * BATCH, (step + 1) * BATCH)] for step in range(STEPS)
    }
    words, run_folder = arguments(world, tmp_path), tmp_path / "pretrain_mals/tiny-albef"
    seen: dict[int, list[str]] = {}
    for processes, workers in ((4, 1), (2, 2), (1, 0)):
        notes, begun = tmp_path / f"notes-{processes}", newest_step(run_folder)
        process = start(words, notes, processes=processes, workers=workers)
        goal = begun + 4 if processes > 1 else STEPS
        deadline = time.monotonic() + 240
        while process.poll() is None and newest_step(run_folder) < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        if processes > 1:
            assert process.poll() is None, (notes / "log").read_text()
            kill_tree(process.pid)
        process.wait()
        found = noted(notes)
        assert min(found) == begun and set(range(begun, newest_step(run_folder))) <= set(found)
        for step, got in found.items():
            assert got == expected[step], f"step {step} on {processes} processes"
        seen |= found
    assert process.returncode == 0, (notes / "log").read_text()
    assert sorted(seen) == list(range(STEPS))
    assert {sum(key.startswith("mals/") for key in got) for got in seen.values()} == {24}
    assert run_recipe("pretrain_mals", *words, "--runs", str(tmp_path / "alone"), "--data.workers", "0") == 0
    ours, alone = metrics(run_folder), metrics(tmp_path / "alone/pretrain_mals/tiny-albef")
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for line, other in zip(ours, alone, strict=True):
        assert line == pytest.approx(other, rel=1e-4), f"step {line['step']}"
    log = (tmp_path / "notes-4/log").read_text()
    assert f"source mals at {world.shards}: 64 pairs of 64 images, 64 identities; 3 of every 4 training pairs" in log
    assert log.count("an epoch is ") == 1 and f"an epoch is {len(keys)} pairs" in log


@pytest.mark.slow
def test_the_doctor_names_each_and_what_it_gives(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "doctor", str(world.shards), "--benchmark", "mals", "--sources", "mals:3", "coco:1"]
    assert main([*words, "--roots", f"coco={world.coco}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"coco at {world.coco}\n  train: ") and "usable" in printed
    assert f"source mals at {world.shards}: 64 pairs of 64 images, 64 identities; 3 of every 4 training pairs" in printed
    assert f"source coco at {world.coco}: " in printed and "; 1 of every 4 training pairs" in printed
    assert main(words) == 2
    assert_one_sentence(capsys.readouterr().err, "data.roots has no root of coco, expected coco=ROOT; add it")


@pytest.mark.slow
def test_a_mixture_with_chunks_of_both_is_scored_as_what_it_is(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MARS weighs the attribute chunks of all captions, those of shards and those of a folder."""
    words = [*arguments(world, tmp_path)[1:], "--schedule.max-steps", "1"]
    assert run_recipe("pretrain_mals", "tiny", *words) == 0
    run = tmp_path / "pretrain_mals/tiny"
    assert main(["evaluate", str(run), "--on", "cuhk-pedes", "--root", str(world.cuhk_pedes)]) == 0
    assert (run / "results/zero-shot-cuhk-pedes-test.json").exists()
    done = call(sys.executable, "-m", "tbps.command", "results", str(tmp_path), "--format", "csv")
    assert "mals:3 + coco:1 to cuhk-pedes" in done.stdout, done.stdout + done.stderr
    assert run_recipe("pretrain_mals", "tiny", *words, "--data.sources", "mals:2", "coco:1") == 2
    assert "data.sources" in capsys.readouterr().err
