"""A recorded step of the official IRRA: our settings of it, our method with its weights, its batch and its draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from recordings import recording
from torch import Tensor

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.methods.irra import Irra, IrraWeights
from tbps.convert.foreign import convert
from tbps.convert.weights import load_weights
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.objectives.irra_masking import PROBABILITY
from tbps.text.token_batch import Captions


class RecordedIrra:
    """The recorded step, and our method with its weights."""

    def __init__(self, **changes: Any) -> None:
        self.about, self.tensors = recording("irra")
        self.config = settings(self.about, **changes)
        given = self.about["config"]
        self.method: Any = build_method(self.config, image_px=tuple(given["img_size"]), num_identities=given["num_classes"])
        self.load()
        self.batch, self.draws = self.inputs()

    def load(self) -> None:
        """By the commands of a user: an official checkpoint through `tbps convert`, then as start weights."""
        with TemporaryDirectory() as folder:
            official, converted = Path(folder) / "best.pth", Path(folder) / "irra.safetensors"
            torch.save({"model": self.part("weights."), "epoch": 1}, official)
            report = convert(official, converted, kind="irra", grid=tuple(self.about["derived"]["grid_hw"]))
            assert "without a place" not in report
            loaded = load_weights(self.method, converted)
        assert loaded.missing == loaded.unplaced == loaded.resized == []

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def captions(self, name: str) -> Captions:
        ids = self.tensors[name]
        lengths = (ids == self.about["derived"]["eot_id"]).int().argmax(1) + 1
        return Captions(token_ids_BL=ids, lengths=tuple(lengths.tolist()), chunk_id_BL=torch.zeros_like(ids))

    def inputs(self) -> tuple[Batch, Draws]:
        own, identity = self.captions("inputs.caption_ids"), self.tensors["inputs.pids"]
        batch = Batch(
            image_BCHW=self.tensors["inputs.images"],
            own=own,
            paired=own,
            replaced_B=torch.zeros_like(identity),
            identity_B=identity,
            group_pairs=len(identity),
            epoch=1.0,
        )
        return batch, Draws(numbers={"mlm": self.mask_numbers()})

    def mask_numbers(self) -> Tensor:
        """The recorded choices as the uniform numbers that lead to them."""
        choice, word = self.tensors["draws.mlm_uniform"].double(), self.tensors["draws.mlm_random_token"].double()
        words = self.about["derived"]["mask_id"] - 1  # ids 1 to mask_id - 1
        place = (word - 1 + 0.5) / words
        return torch.stack([torch.where(choice < 0, 1.0, choice), torch.where(word < 0, 0.0, place)], dim=1)

    def expect(self, name: str, found: Tensor, tolerance: float) -> None:
        expected = self.tensors[f"expected.{name}"]
        assert found.shape == expected.shape, name
        bound = tolerance * max(1.0, expected.abs().max().item())
        error = (found.detach().float() - expected.float()).abs().max().item()
        assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"


def settings(about: dict[str, Any], **changes: Any) -> Irra:
    """Our settings of a recording, all from its JSON."""
    given, heads = about["config"], about["derived"]["heads"]
    towers = ClipSizes(
        image=ImageTowerSizes(
            width=given["vision_width"],
            layers=given["vision_layers"],
            heads=heads["vision"],
            intermediate=4 * given["vision_width"],
            patch_px=given["patch"],
            stride_px=given["stride"],
        ),
        text=TextTowerSizes(
            width=given["text_width"],
            layers=given["text_layers"],
            heads=heads["text"],
            intermediate=4 * given["text_width"],
            vocabulary_size=given["vocab_size"],
            max_positions=given["context_length"],
        ),
        features=given["embed_dim"],
    )
    config = Irra(
        towers=towers,
        weights=IrraWeights(
            sdm=given.get("sdm_loss_weight", 1.0), identity=given["id_loss_weight"], mlm=given["mlm_loss_weight"]
        ),
        logit_scale=1 / given["temperature"],
        cross_layers=given["cmt_depth"],
        cross_heads=heads["cross"],
        mlm_probability=given.get("mlm_probability", PROBABILITY),
        padding="official",
    )
    assert config.mask_id == about["derived"]["mask_id"]
    return replace(config, **changes)
