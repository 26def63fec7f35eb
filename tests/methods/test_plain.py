"""What a plain method answers the loop."""

from __future__ import annotations

import pytest

from tbps.methods.plain import PlainMethod


def test_there_is_nothing_beside_encoders_and_losses() -> None:
    method = PlainMethod(weights={"itc": 1.0})
    assert method.weights == {"itc": 1.0} and method.matcher() is None
    assert method.untrained(reranks=True) == [] and method.first_step_in_words() == ""
    method.advance_momentum()
    method.after_step()
    method.set_activation_checkpointing(False)
    sentence = r"loop.activation_checkpointing is on, and PlainMethod has no blocks that can be computed again; turn it off"
    with pytest.raises(ValueError, match=sentence):
        method.set_activation_checkpointing(True)
