from __future__ import annotations

from typing import Any

import pytest

from tbps.config.lora import Lora


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "q,attn"}, "lora.targets is 'q,attn', expected some of q, k, v, out, fc1, fc2, with commas between"),
        (
            {"targets": ","},
            "lora.targets is ',', expected some of q, k, v, out, fc1, fc2, with commas between them",
        ),
        ({"targets": "q", "rank": 0}, "lora.rank is 0, expected at least 1"),
        ({"rank": 8}, "lora.rank is 8, and lora.targets is empty: name the layers that adapters sit on, as q,k,v,out, or"),
        ({"base": "bf16"}, "lora.base is bf16, and lora.targets is empty: name the layers that adapters sit on"),
        ({"adapters": "x"}, "lora.adapters is x, and lora.targets is empty: name the layers that adapters sit on"),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        Lora(**changes)
    assert str(raised.value).startswith(message)


def test_targets_are_named_once_each_in_the_given_order() -> None:
    assert Lora(targets=" v, q,v,").names == ("v", "q")
    assert not Lora().on
