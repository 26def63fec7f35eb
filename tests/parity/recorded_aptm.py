"""Recorded steps of the official APTM: our settings of them, our method with their weights, their batches and draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from recordings import recording
from torch import Tensor

from tbps.config.encoders import Bert, Swin
from tbps.config.methods.aptm import Aptm, AptmWeights
from tbps.convert.foreign import convert
from tbps.convert.weights import load_weights
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

REWORDED = 0.8
"""The official weight of the reworded captions, as `expected.loss.itc` of the recording says it."""


class RecordedAptm:
    """A recorded step, and our method with its weights."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.about, self.tensors = recording(name)
        given = self.about["config"]
        self.config = replace(settings(self.about), **changes)
        self.method: Any = build_method(self.config, image_px=(given["h"], given["w"])).train()
        load(self.method, self.part("weights."))
        self.batch, self.draws = self.inputs()

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def captions(self, name: str) -> Captions:
        prefix, _, ending = name.partition("|")
        ids, real = self.tensors[f"{prefix}_ids{ending}"], self.tensors[f"{prefix}_atts{ending}"]
        return Captions(token_ids_BL=ids, lengths=tuple(real.sum(1).tolist()), chunk_id_BL=torch.zeros_like(ids))

    def inputs(self) -> tuple[Batch, Draws]:
        tensors, own, identity = self.tensors, self.captions("inputs.text"), self.tensors["inputs.idx"]
        pretrains = "inputs.label" in tensors
        batch = Batch(
            image_BCHW=tensors["inputs.image"],
            own=own,
            paired=own,
            replaced_B=torch.zeros_like(identity),
            identity_B=identity,
            group_pairs=len(identity),
            epoch=1.0,
            reworded=None if pretrains else self.captions("draws.text|_eda"),
            prompts=self.captions("inputs.attr_text") if pretrains else None,
            fields={"attributes": tensors["inputs.label"]} if pretrains else {},
        )
        recorded = {
            "negative_image": tensors["draws.neg_image_idx"],
            "negative_caption": tensors["draws.neg_text_idx"],
            "mlm_ids": tensors["draws.text_ids_masked"],
            "mlm_labels": labels(tensors, "masked", own.token_ids_BL.shape),
        }
        if pretrains:
            recorded |= {
                "prompts_matched": tensors["draws.attr_itm_prompt_idx"][None],
                "prompt_images": tensors["draws.attr_mlm_image_idx"][None],
                "prompt_ids": tensors["draws.attr_text_ids_masked"],
                "prompt_labels": labels(tensors, "attr_masked", tensors["inputs.attr_text_ids"].shape),
            }
        else:
            recorded |= {
                "reworded_negative_image": tensors["draws.neg_image_idx_eda"],
                "reworded_negative_caption": tensors["draws.neg_text_idx_eda"],
            }
        pairs = len(identity)
        zeros = {name: torch.zeros(pairs, 2, dtype=torch.float64) for name in ("negatives", "reworded_negatives")}
        seeds = {name: torch.zeros(pairs, 1, dtype=torch.float64) for name in ("mlm", "prompts")}
        return batch, Draws(numbers=zeros | seeds, recorded=recorded)

    def expect(self, name: str, found: Tensor, tolerance: float) -> None:
        expected = self.tensors[f"expected.{name}"]
        assert found.shape == expected.shape, name
        bound = tolerance * max(1.0, expected.abs().max().item())
        error = (found.detach().float() - expected.float()).abs().max().item()
        assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"


def labels(tensors: dict[str, Tensor], kind: str, shape: torch.Size) -> Tensor:
    """(rows, L): what stood at the masked places, -100 elsewhere."""
    places, words = tensors[f"draws.{kind}_pos"], tensors[f"draws.{kind}_ids"]
    out = torch.full(tuple(shape), -100)
    rows, slots = (words != -100).nonzero(as_tuple=True)
    out[rows, places[rows, slots]] = words[rows, slots]
    return out


def load(method: Any, weights: dict[str, Tensor]) -> None:
    """By the commands of a user: an official checkpoint through `tbps convert`, then as start weights."""
    with TemporaryDirectory() as folder:
        official, converted = Path(folder) / "checkpoint_31.pth", Path(folder) / "aptm.safetensors"
        torch.save({"model": weights, "config": {"batch_size_train": 4}}, official)
        assert "without a place" not in convert(official, converted, kind="aptm")
        loaded = load_weights(method, converted)
    assert loaded.missing == loaded.unplaced == loaded.resized == []


def settings(about: dict[str, Any]) -> Aptm:
    """Our settings of a recording, all from its JSON."""
    given, derived = about["config"], about["derived"]
    pretrains = given["mode"] == "pretrain"
    share = given["t"] / 3 if pretrains else 0.0
    reworded = 0.0 if pretrains else REWORDED
    return Aptm(
        swin=Swin(
            width=given["swin_embed_dim"],
            depths=tuple(given["depths"]),
            heads=tuple(given["num_heads"]),
            window=given["window_size"],
            drop_path=0.0,
        ),
        bert=Bert(
            width=given["hidden"],
            layers=given["layers"],
            heads=given["heads"],
            intermediate=given["intermediate"],
            vocabulary_size=given["vocab"],
            max_positions=given["max_pos"],
            fusion_layer=given["fusion"],
            dropout=0.0,
            cls_id=derived["cls_id"],
            mask_id=derived["mask_id"],
        ),
        weights=AptmWeights(
            reworded_itc=reworded,
            reworded_itm=reworded,
            attribute_itc=share,
            attribute_itm=share,
            attribute_mlm=share,
        ),
        projection=given["embed_dim"],
        temperature=given["temp"],
        most_masked=given["max_masks"],
        masking="official",
        official_tokens=given["max_tokens"],
        label_smoothing=given.get("label_smooth", 0.0),
    )
