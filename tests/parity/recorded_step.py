"""Recorded steps of official ALBEF, RaSa and MARS code: weights under official names, inputs, draws, expectations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from recordings import recording
from torch import Tensor

from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.methods.albef import Albef, AlbefWeights
from tbps.config.methods.mars import Mars, MarsWeights
from tbps.config.methods.rasa import Rasa, RasaWeights
from tbps.convert.official import from_official
from tbps.convert.weights import place
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

TOLERANCE = 1e-5
OFFICIAL_LOSS = {"itc": "ita"}
"""Our names of losses that have another one in a recording."""


class Recorded:
    """A recorded step."""

    def __init__(self, name: str) -> None:
        self.about, self.tensors = recording(f"{name}_A")

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def weights(recorded: Recorded, kind: Any) -> Any:
    """The weights of the recorded losses; 0 for a loss that the recording does not have."""
    config = recorded.about["config"]
    official = dict(zip(config["loss_order"], config["loss_weights"], strict=True))
    names = {field.name: OFFICIAL_LOSS.get(field.name, field.name) for field in fields(kind)}
    assert set(official) <= set(names.values()), f"unknown losses {set(official) - set(names.values())}"
    return kind(**{ours: official.get(theirs, 0.0) for ours, theirs in names.items()})


def build(recorded: Recorded, **changes: object) -> torch.nn.Module:
    model, bert, tokens = (
        recorded.about["config"]["model"],
        recorded.about["config"]["bert"],
        recorded.about["config"]["tokens"],
    )
    family = {
        "vit": Vit(
            width=model["vision_width"], depth=model["vit_depth"], heads=model["vit_heads"], patch_px=model["patch_size"]
        ),
        "bert": Bert(
            width=bert["hidden_size"],
            layers=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            intermediate=bert["intermediate_size"],
            vocabulary_size=bert["vocab_size"],
            max_positions=bert["max_position_embeddings"],
            fusion_layer=bert["fusion_layer"],
            full_cross_attention=bert.get("full_ca", False),
            dropout=0.0,
            cls_id=tokens["cls"],
            mask_id=tokens["mask"],
        ),
        "projection": model["embed_dim"],
        "temperature": model["temp"],
        "queue_pairs": model["queue_size"],
        "momentum": model["momentum"],
        "alpha": recorded.about["config"]["alpha"],
        "padding": "official",
    }
    name = recorded.about["config"]["name"]
    if name == "albef":
        config = Albef(**(family | {"weights": weights(recorded, AlbefWeights)} | changes))
    else:
        words = {
            "mlm_soft": "sequence",
            "mlm_probability": model["mlm_probability"],
            "mrtd_probability": model["mrtd_mask_probability"],
        }
        if name == "rasa":
            config = Rasa(**(family | words | {"weights": weights(recorded, RasaWeights)} | changes))
        else:
            mae = MaeDecoder(depth=model["dec_depth"], heads=model["dec_heads"], mask_ratio=model["mask_ratio"])
            config = Mars(**(family | words | {"mae": mae, "weights": weights(recorded, MarsWeights)} | changes))
    method = build_method(config, image_px=(model["image_res"], model["image_res"]))
    converted = from_official(recorded.part("weights."))
    assert converted.unplaced == []
    report = place(method, converted.tensors, source=name, keep_queue=True)
    assert report.missing == [] and report.copied == [] and report.unplaced == []
    return method.train()


def captions(recorded: Recorded, name: str) -> Captions:
    ids, mask = recorded.tensors[f"inputs.{name}.input_ids"], recorded.tensors[f"inputs.{name}.attention_mask"]
    chunks = recorded.tensors.get(f"inputs.{name}.attribute_masks", torch.zeros_like(ids))
    return Captions(token_ids_BL=ids, lengths=tuple(mask.sum(1).tolist()), chunk_id_BL=chunks.long())


def inputs(recorded: Recorded) -> tuple[Batch, Draws]:
    tensors = recorded.tensors
    single = "inputs.image" in tensors
    text1, text2 = ("text", "text") if single else ("text1", "text2")
    own = captions(recorded, text1)
    identity_B = tensors["inputs.idx"].flatten()
    image, second = ("inputs.image", "inputs.image") if single else ("inputs.image1", "inputs.image2")
    batch = Batch(
        image_BCHW=tensors[image],
        second_image_BCHW=tensors[second],
        own=own,
        paired=captions(recorded, text2),
        replaced_B=tensors.get("inputs.replace", torch.zeros_like(identity_B)),
        identity_B=identity_B,
        group_pairs=len(identity_B),
        epoch=1.0,
    )
    draws = recorded.part("draws.")
    numbers = {"mae": draws["mae.noise"]} if "mae.noise" in draws else {}
    words = recorded.about["config"]["bert"]["vocab_size"]
    numbers |= {kind: mask_numbers(draws, kind, words) for kind in ("mlm", "mrtd") if f"{kind}.select" in draws}
    replayed = {"negative_image": draws["image_neg_idx"], "negative_caption": draws["text_neg_idx"]}
    if "mrtd.sampled_ids" in draws:
        replayed["words"] = draws["mrtd.sampled_ids"]
    numbers["negatives"] = torch.zeros(len(identity_B), 2, dtype=torch.float64)
    return batch, Draws(numbers=numbers, recorded=replayed)


def mask_numbers(draws: dict[str, Tensor], kind: str, words: int) -> Tensor:
    """(B, 4, L) numbers of which our masking makes the recorded choices: chosen, [MASK], another word, which word."""
    yes = [torch.where(draws[f"{kind}.{name}"], 0.0, 1.0) for name in ("select", "replace80", "random50")]
    return torch.stack([*yes, (draws[f"{kind}.random_words"] + 0.5) / words], dim=1).double()


def close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    if not expected.is_floating_point():
        assert torch.equal(found.to(expected.dtype), expected), what
        return
    bound = TOLERANCE * max(expected.abs().max().item(), 1e-12)
    error = (found.detach() - expected).abs().max().item()
    assert error <= bound, f"{what}: error {error:.3g}, allowed {bound:.3g}"
