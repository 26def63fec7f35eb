"""Rules of the optimiser on the command line and in its help."""

from __future__ import annotations

import pytest

from recipes import albef, mars
from tbps.config.help import help_text
from tbps.recipe_command import read_overrides


def test_a_rule_of_a_recipe_can_be_changed() -> None:
    words = ["--optim.rules.0.factor", "5", "--optim.rules.1.decay", "False", "--schedule.warmup-share", "0.1"]
    run = read_overrides(mars.cuhk_pedes, words, program="mars.py cuhk-pedes")
    assert [(rule.pattern, rule.factor, rule.decay) for rule in run.optim.rules] == [
        ("prd_head", 5.0, None),
        ("mrtd_head", 10.0, False),
    ]
    assert run.schedule.warmup_share == 0.1


def test_help_lists_every_rule_with_its_meaning() -> None:
    text = help_text(mars.cuhk_pedes(), program="mars.py cuhk-pedes")
    assert "  --optim.rules.1.pattern mrtd_head\n      A part of a parameter's dotted name: " in text
    assert "  --optim.rules.0.factor 10.0\n      Rate as a multiple of `optim.lr`; None = not this" in text


def test_a_rule_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_overrides(albef.tiny, ["--optim.rules.0.factor", "5"], program="albef.py tiny")
    assert "albef.py tiny: Unrecognized options: --optim.rules.0.factor, 5" in capsys.readouterr().err
