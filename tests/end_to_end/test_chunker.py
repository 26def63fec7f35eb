"""Who finds a run's attribute chunks is part of the run, and shards may bring them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import REPOSITORY, World, run_recipe

from launch.planned_run import check_folder, plan_run
from tbps.command import main
from tbps.data.shard_chunks import kept_beside_shards
from tbps.data.shards import ShardPairs
from tbps.text import chunk_lexicon
from tbps.text.chunks import BuiltinChunker
from tbps.text.cleaning import clean_caption


def test_a_run_goes_on_with_the_chunker_that_it_began_with(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["tiny", *world.overrides(tmp_path, max_steps=2), "--data.workers", "1", "--method.bert.dropout", "0.1"]
    assert run_recipe("mars", *arguments) == 0
    name, folder = BuiltinChunker().name, tmp_path / "mars" / "tiny"
    config = json.loads((folder / "config.json").read_text())
    assert config["run"]["data"]["captioning"]["chunker_name"] == name
    results = json.loads((folder / "results" / "final-cuhk-pedes-test.json").read_text())
    assert (results["chunker"], results["config_hash"]) == (name, config["hash"])
    # Who plans the run does not know what is installed where it runs.
    check_folder(plan_run(str(REPOSITORY / "recipes" / "mars.py"), "tiny", arguments[1:]))

    monkeypatch.setattr(chunk_lexicon, "VERSION", 99)
    capsys.readouterr()
    assert run_recipe("mars", *arguments) == 2
    other = BuiltinChunker().name
    assert f"(data.captioning.chunker_name: {name} -> {other}); restore the old values" in capsys.readouterr().err
    assert run_recipe("mars", *arguments, "--name", "pinned", "--data.captioning.chunker-name", name) == 2
    assert f"would be found by {other} on" in capsys.readouterr().err


def test_shards_bring_the_chunks(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    shards, cache = tmp_path / "shards", tmp_path / "cache" / "shards"
    words = ["data", "shard", str(world.mals), str(shards), "--benchmark", "mals", "--chunks", "builtin"]
    assert main(words) == 0
    assert f"{shards}: train: attribute chunks found by {BuiltinChunker().name}" in capsys.readouterr().out
    assert main(words) == 2  # as after a kill in the midst of the chunks
    assert f"tbps data chunks {shards} finds their attribute chunks" in capsys.readouterr().err
    assert main(["data", "verify", str(shards)]) == 0
    arguments = ["tiny", *world.overrides(tmp_path, recipe="pretrain_mals", max_steps=1), "--data.workers", "1"]
    arguments += ["--data.root", str(shards), "--data.cache", str(cache)]
    caplog.clear()
    assert run_recipe("pretrain_mals", *arguments) == 0
    assert "finding attribute chunks" not in caplog.text and not (cache.parent / "chunks").exists()

    # Another rule, then no usable files: in words, never in silence.
    assert run_recipe("pretrain_mals", *arguments, "--name", "two", "--data.captioning.cleaning", "delete") == 0
    assert "but this run asks for" in caplog.text and "finding attribute chunks" in caplog.text
    (portion,) = shards.glob("train-chunks-*/portion-*")
    portion.write_bytes(portion.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["data", "verify", str(shards)]) == 1
    assert "other content than the index says" in capsys.readouterr().out
    shutil.rmtree(cache.parent / "chunks")
    caplog.clear()
    assert run_recipe("pretrain_mals", *arguments, "--name", "three") == 0
    assert "the shards' attribute chunks cannot be used, they are found anew" in caplog.text
    assert main(["data", "chunks", str(shards), "--chunker", "builtin"]) == 0
    assert main(["data", "verify", str(shards)]) == 0


def test_chunks_of_captions_as_they_are_written(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shards, cache = tmp_path / "shards", tmp_path / "cache" / "shards"
    assert main(["data", "shard", str(world.mals), str(shards), "--benchmark", "mals"]) == 0
    assert main(["data", "chunks", str(shards), "--chunker", "builtin", "--cleaning", "none"]) == 0
    arguments = ["tiny", *world.overrides(tmp_path, recipe="pretrain_mals", max_steps=1), "--data.workers", "1"]
    arguments += ["--data.root", str(shards), "--data.cache", str(cache), "--data.captioning.cleaning"]
    caplog.clear()
    assert run_recipe("pretrain_mals", *arguments, "none") == 0
    assert "finding attribute chunks" not in caplog.text and not (cache.parent / "chunks").exists()
    assert run_recipe("pretrain_mals", *arguments, "space", "--name", "two") == 0
    assert "(cleaning none), but this run asks for those" in caplog.text and "finding attribute chunks" in caplog.text

    source, name = ShardPairs(str(shards), "train", cache=cache), BuiltinChunker().name
    kept = kept_beside_shards(source, found_by=name, cleaning="none", cache=cache, patience_s=1.0)
    captions = [clean_caption(source.caption(pair), cleaning="none") for pair in range(len(source))]
    assert any(caption.endswith(".") and caption[0].isupper() for caption in captions)
    assert kept is not None and list(kept.words(captions)) == list(BuiltinChunker().words(captions))
