from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from small_method import small_run

from tbps.config.methods.mars import Mars
from tbps.config.serialise import run_from_json, to_json
from tbps.runs.config_hash import config_hash, difference


def test_place_changes_nothing_and_everything_else_does(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    elsewhere = replace(run, runs="/elsewhere", loop=replace(run.loop, log_steps=7, keep_checkpoints=9))
    assert config_hash(elsewhere) == config_hash(run) and difference(run, elsewhere) == []
    other = replace(run, data=replace(run.data, batch_pairs=16), loop=replace(run.loop, seed=1))
    assert config_hash(other) != config_hash(run)
    assert difference(run, other) == ["data.batch_pairs: 8 -> 16", "loop.seed: 42 -> 1"]


def test_another_kind_of_method_is_one_difference(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run = replace(run, data=replace(run.data, image_px=(32, 32)))  # patches of both kinds fit
    assert difference(run, replace(run, method=Mars())) == [
        "method.kind: tbps.config.methods.albef.Albef -> tbps.config.methods.mars.Mars"
    ]


def test_a_whole_number_hashes_as_it_does_after_it_was_written_and_read(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run = replace(run, optim=replace(run.optim, lr=1, betas=(0, 0)), schedule=replace(run.schedule, epochs=4))
    again = run_from_json(json.loads(json.dumps(to_json(run))))
    assert again == run and config_hash(again) == config_hash(run)
