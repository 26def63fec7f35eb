"""A run folder with everything a report can show, made by the real code from random features."""

from __future__ import annotations

import datetime
import io
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tbps.config.data import Captioning, Data
from tbps.config.methods.mars import Mars
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.serialise import to_json
from tbps.data.annotations import read_annotations
from tbps.data.pairs import EvaluationSet, FolderPairs
from tbps.evaluation.direction import rank_direction
from tbps.evaluation.evaluate import Evaluated
from tbps.evaluation.ranking_order import Rule
from tbps.evaluation.ranks import Ranks
from tbps.methods.albef.reconstructions import Reconstruction, show_reconstructions
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.gallery import write_queries
from tbps.reporting.results import Provenance, make_results, write_results

HOSTILE = "<script>alert(1)</script> \"double\" 'single' & {{ 7 * 7 }} <img src=x onerror=alert(2)>"

PLAIN = Rule()


def small_run() -> Run:
    """A MARS run on CUHK-PEDES."""
    captioning = Captioning(vocabulary="bert-base-uncased", max_words=70, max_tokens=70)
    return Run(
        recipe="mars",
        name='first <b>"run"<b>',
        method=Mars(),
        data=Data(benchmark="cuhk-pedes", captioning=captioning, image_px=(384, 384), batch_pairs=8, group_pairs=8),
        optim=Optimiser(lr=1e-5),
        schedule=Schedule(epochs=30),
    )


def write_people(root: Path, *, num_identities: int = 30, images_each: int = 3, hostile: bool = False) -> EvaluationSet:
    """A CUHK-PEDES test split of two-coloured figures."""
    rng = np.random.default_rng(0)
    rows = []
    for identity in range(num_identities):
        top, legs = rng.integers(30, 230, (2, 3))
        for image in range(images_each):
            name = f"cam_a/{identity:03d}'{image}.jpg"
            pixels = np.full((96, 48, 3), rng.integers(120, 220), dtype=np.uint8)
            pixels[8:20, 18:30] = (205, 170, 140)
            pixels[20:55, 12:36] = top
            pixels[55:90, 15:33] = legs
            pixels = (pixels * 0.9 + rng.integers(0, 25, pixels.shape)).astype(np.uint8)
            file = root / "imgs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG")
            file.write_bytes(buffer.getvalue())
            text = f"A pedestrian with a top of colour {top.tolist()} and trousers of colour {legs.tolist()}"
            captions = [text + ", walking away from the camera.", HOSTILE if hostile else text + ", seen from the front."]
            rows.append({"id": identity + 1, "file_path": name, "captions": captions, "split": "test"})
    (root / "reid_raw.json").write_text(json.dumps(rows), encoding="utf-8")
    return EvaluationSet(FolderPairs(root, "cuhk-pedes", read_annotations(root, "cuhk-pedes").split("test")))


def rank_noisy_features(
    evaluation_set: EvaluationSet, *, noise: float = 1.6, num_candidates: int = 8, rule: Rule = PLAIN
) -> Evaluated:
    """Features that know the identity, plus noise; the matching score is the similarity under less noise."""
    generator = torch.Generator().manual_seed(1)
    image_identity = torch.as_tensor(evaluation_set.gallery_identity_G)
    caption_identity = torch.as_tensor(evaluation_set.query_identity_Q)
    centre = torch.randn(int(image_identity.max()) + 1, 24, generator=generator)

    def features(identity: torch.Tensor) -> torch.Tensor:
        values = centre[identity] + noise * torch.randn(len(identity), 24, generator=generator)
        return torch.nn.functional.normalize(values, dim=1)

    image, caption = features(image_identity), features(caption_identity)

    def match(candidate: torch.Tensor) -> torch.Tensor:
        true = (caption_identity[:, None] == image_identity[candidate]).float()
        return 2 * true - 1 + torch.randn(candidate.shape, generator=generator)

    ranks = Ranks.current()
    return Evaluated(
        text_to_image=rank_direction(
            caption,
            image,
            caption_identity,
            image_identity,
            ranks=ranks,
            num_candidates=num_candidates,
            rule=rule,
            match=match,
        ),
        image_to_text=rank_direction(
            image,
            caption,
            image_identity,
            caption_identity,
            ranks=ranks,
            num_candidates=0,
            rule=rule,
            match=match,
        ),
        rule=rule,
        num_identities=len(image_identity.unique()),
        num_images=len(image),
        num_captions=len(caption),
        num_cut_captions=3,
        num_processes=1,
        embed_s=1.25,
        rank_s=0.5,
    )


def provenance(**changes: str) -> Provenance:
    """Of the run above."""
    values = {"benchmark": "cuhk-pedes", "split": "test", "purpose": "final", **changes}
    return Provenance(
        **values,  # type: ignore[arg-type]
        recipe="mars",
        run="first",
        config_hash="0123456789abcdef",
        weights="checkpoints/00004000",
        weights_sha256="ab" * 32,
        step=4000,
        precision="fp32",
        device="cpu (x86_64, 1 thread)",
    )


def write_log(file: Path, *, steps: int = 4000) -> None:
    """Noisy falling losses, and a validation every 500 steps."""
    rng = random.Random(0)
    lines: list[dict[str, float | str]] = []
    for step in range(10, steps + 1, 10):
        fall = math.exp(-step / 1500)
        losses = {name: scale * (0.2 + fall) * rng.uniform(0.8, 1.2) for name, scale in LOSSES.items()}
        line: dict[str, float | str] = {"step": step, "epoch": step / 133, "loss": sum(losses.values())}
        line |= {f"loss/{name}": value for name, value in losses.items()}
        lines.append(line | {"lr": 1e-5 * (0.5 + 0.5 * math.cos(step / steps * 3.1)), "pairs_per_s": rng.uniform(80, 90)})
        if step % 500 == 0:
            rank_1 = 75 - 60 * fall
            values = {"rank_1": rank_1, "rank_5": rank_1 + 12, "rank_10": rank_1 + 16, "mAP": rank_1 - 6, "mINP": rank_1 / 2}
            lines.append({"step": step, "split": "val", "weights_of_step": step, **values})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


LOSSES = {"cl": 4.0, "pitm": 0.7, "mlm": 5.0, "prd": 0.6, "mrtd": 0.4, "mae": 1.1, "attribute": 0.7}


def fill_run(folder: Path, *, hostile: bool = False) -> Evaluated:
    """Write config, log, results, queries and exhibits into `folder`."""
    folder.mkdir()
    config = {"hash": "0123456789abcdef", "run": to_json(small_run()), "versions": {"torch": "2.14"}, "machine": {}}
    config["git"] = {"commit": "c0ffee" * 6, "dirty": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_log(folder / "metrics.jsonl")
    (folder / "data").mkdir()
    evaluation_set = write_people(folder / "data", hostile=hostile)
    evaluated = rank_noisy_features(evaluation_set)
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    file = write_results(folder, make_results(evaluated, provenance(), now=now))
    write_queries(folder, file.stem, evaluated, evaluation_set)
    zero_shot = rank_noisy_features(evaluation_set, noise=4.0, num_candidates=0)
    write_results(folder, make_results(zero_shot, provenance(benchmark="rstpreid", purpose="zero-shot"), now=now))
    rng = np.random.default_rng(3)
    rows = []
    for number in range(3):
        original = np.repeat(np.repeat(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), 16, axis=0), 16, axis=1)
        masked = np.where(np.kron(rng.random((12, 12, 1)) < 0.75, np.ones((16, 16, 1))) > 0, 128, original)
        text = HOSTILE if hostile else f"A man in a red coat, number {number}."
        rows.append(
            Reconstruction(
                caption=text, original_HWC=original, masked_HWC=masked.astype(np.uint8), reconstruction_HWC=original[::-1]
            )
        )
    write_exhibits(folder, file.stem, [show_reconstructions(rows)])
    return evaluated
