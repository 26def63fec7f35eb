from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_method import small_run

from tbps.config.data import Pixels
from tbps.config.methods.aga import Aga
from tbps.config.methods.albef import Albef
from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.serialise import run_from_json, to_json
from tbps.runs.config_hash import difference


def _through_json(run: Run) -> Run:
    return run_from_json(json.loads(json.dumps(to_json(run))))


@pytest.mark.parametrize("method", [Albef(), Rasa(mlm_soft="sequence"), Mars(attribute_head="own"), Aga(candidates=3)])
def test_a_run_comes_back_equal_with_its_kind_of_method(tmp_path: Path, method: Albef | Rasa | Mars | Aga) -> None:
    run = small_run(tmp_path)
    run = replace(
        run, schedule=replace(run.schedule, warmup_share=0.5), method=method, data=replace(run.data, image_px=(32, 32))
    )
    assert _through_json(run) == run
    assert to_json(run)["method"]["kind"] == f"tbps.config.methods.{type(method).__name__.lower()}.{type(method).__name__}"


def test_the_pixels_of_evaluation_come_back_or_are_none(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    assert run.data.test_pixels is None and run.data.evaluation_pixels is run.data.pixels
    other = Pixels(mean=(0.5, 0.5, 0.5), interpolation="bilinear")
    changed = replace(run, data=replace(run.data, test_pixels=other, augmentations=("random-operations", "erase")))
    assert _through_json(changed) == changed and changed.data.evaluation_pixels is other
    assert difference(changed, run) == [
        f"data.test_pixels: {to_json(other)} -> None",
        "data.augmentations: ['random-operations', 'erase'] -> ['flip']",
    ]
    assert [line.partition(":")[0] for line in difference(run, changed)] == ["data.test_pixels", "data.augmentations"]


def test_place_fields_can_be_left_out(tmp_path: Path) -> None:
    data = to_json(small_run(tmp_path), place=False)
    assert "runs" not in data and "root" not in data["data"] and "log_steps" not in data["loop"]
    assert data["loop"]["seed"] == 42


def _changed(tmp_path: Path, path: str, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(to_json(small_run(tmp_path))))
    *outer, last = path.split(".")
    inner = data
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return data


RULE = {"pattern": "cross", "factor": 5.0, "decay": None, "optional": False}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loop.speed", 3, r"run.loop has unknown fields \['speed'\] and lacks \[\]: it was written by another version"),
        (
            "method.kind",
            "mars",
            r"run.method.kind is 'mars', expected the dotted name of a class: it was written by another",
        ),
        (
            "method.kind",
            "nobodys.Toy",
            r"run.method.kind is 'nobodys.Toy', which cannot be imported \(No module named 'nobodys'\); put the",
        ),
        ("method.kind", "os.PathLike", r"run.method.kind is 'os.PathLike', which holds no settings of a method"),
        ("data.batch_pairs", "8", r"run.data.batch_pairs is '8', expected a value of type int"),
        ("data.batch_pairs", True, r"run.data.batch_pairs is True, expected a value of type int"),
        ("data.image_px", [384], r"run.data.image_px has 1 values, expected 2"),
        ("data.image_px", 384, r"run.data.image_px is 384, expected a list"),
        ("data.benchmark", "market", r"run.data.benchmark is 'market', expected one of \['cuhk-pedes'"),
        ("optim.rules", [RULE | {"pattern": 3}], r"run.optim.rules\[0\].pattern is 3, expected a value of type str"),
        ("optim.rules", [RULE | {"factor": "5"}], r"run.optim.rules\[0\].factor is '5', expected a value of type float"),
        ("optim.rules", [RULE | {"decay": 1}], r"run.optim.rules\[0\].decay is 1, expected a value of type bool"),
        ("schedule", 3, r"run.schedule is 3, expected an object with fields"),
        ("data.group_pairs", 1, r"data.group_pairs is 1, expected at least 2"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_from_json(_changed(tmp_path, path, value))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    data = to_json(small_run(tmp_path))
    del data["optim"]["lr"]
    with pytest.raises(ValueError, match=r"run.optim has unknown fields \[\] and lacks \['lr'\]"):
        run_from_json(data)


def test_a_whole_number_is_a_fine_rate(tmp_path: Path) -> None:
    run = run_from_json(_changed(tmp_path, "optim.lr", 1))
    assert run.optim.lr == 1.0 and isinstance(run.optim.lr, float)


def test_rules_come_back_equal_and_whole_numbers_give_the_same_text(tmp_path: Path) -> None:
    whole: Any = 5
    rules = (Rule(pattern="cross", factor=whole), Rule(pattern="bias", decay=False), Rule(pattern="*", decay=True))
    run = replace(small_run(tmp_path), optim=Optimiser(lr=1e-3, rules=rules))
    assert _through_json(run) == run
    assert to_json(run)["optim"]["rules"][0] == RULE and isinstance(to_json(run)["optim"]["rules"][0]["factor"], float)
