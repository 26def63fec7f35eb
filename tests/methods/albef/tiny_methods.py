"""Small ALBEF, RaSa, MARS, AGA and LAIP with random weights, and steps for them, made without the data pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.methods.aga import Aga
from tbps.config.methods.albef import Albef
from tbps.config.methods.laip import Laip
from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.data.batch import Batch, Draws
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions, pad_rows

IMAGE_PX = (32, 16)
VIT = Vit(width=24, depth=2, heads=2, patch_px=8)
BERT = Bert(
    width=16,
    layers=3,
    heads=2,
    intermediate=24,
    vocabulary_size=40,
    max_positions=80,
    fusion_layer=1,
    dropout=0.0,
    cls_id=2,
    mask_id=3,
)
FULL_BERT = replace(BERT, full_cross_attention=True)
MAE = MaeDecoder(depth=1, heads=2)
ALBEF = Albef(vit=VIT, bert=BERT, projection=8, queue_pairs=10)
RASA = Rasa(vit=VIT, bert=BERT, projection=8, queue_pairs=10)
MARS = Mars(vit=VIT, bert=FULL_BERT, mae=MAE, projection=8, queue_pairs=10)
AGA = Aga(vit=VIT, bert=BERT, projection=8, queue_pairs=10, p_tem=0.7)
LAIP = Laip(vit=VIT, bert=BERT, projection=8, queue_pairs=10, attention_layer=1)
Config = Albef | Rasa | Mars | Aga | Laip
CONFIGS: dict[str, Config] = {"albef": ALBEF, "rasa": RASA, "mars": MARS, "aga": AGA, "laip": LAIP}

GROUP_PAIRS = 4
IDENTITIES = (5, 6, 5, 7, 6, 8, 8, 9)
"""Two groups; identities repeat inside a group and across groups."""


def build(config: Config) -> Any:
    """The same method at every call, in training mode; every parameter but the temperature is moved by noise."""
    torch.manual_seed(0)
    method = build_method(config, image_px=IMAGE_PX)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name != "temperature":
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def with_dropout(config: Config, probability: float) -> Config:
    """The config with BERT's dropout."""
    return replace(config, bert=replace(config.bert, dropout=probability))


def captions_of(rows: list[Tensor], chunks: list[Tensor]) -> Captions:
    """Padded to a multiple of 8."""
    lengths = tuple(len(row) for row in rows)
    length = -(-max(lengths) // 8) * 8
    return Captions(token_ids_BL=pad_rows(rows, length=length), lengths=lengths, chunk_id_BL=pad_rows(chunks, length=length))


def random_rows(count: int, longest: int, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Token ids and chunk ids of captions of 4 to `longest` tokens; one caption in four has no chunk."""
    rows, chunks = [], []
    for number in range(count):
        length = int(torch.randint(4, longest + 1, (), generator=generator))
        row = torch.randint(4, BERT.vocabulary_size, (length,), generator=generator)
        row[0] = BERT.cls_id
        chunk = torch.randint(0, 4, (length,), generator=generator) if number % 4 else torch.zeros(length)
        chunk[0] = 0
        rows.append(row)
        chunks.append(chunk.long())
    return rows, chunks


def make_step(
    config: Config,
    *,
    identities: tuple[int, ...] = IDENTITIES,
    group_pairs: int = GROUP_PAIRS,
    longest: int = 12,
    epoch: float = 0.5,
) -> tuple[Batch, Draws]:
    """A batch whose every third caption is a weak positive, and the random numbers that the method asks for."""
    generator = torch.Generator().manual_seed(1)
    pairs = len(identities)
    (own, own_chunks), (other, other_chunks) = (random_rows(pairs, longest, generator) for _ in range(2))
    own[0] = torch.cat([own[0][:1], torch.randint(4, BERT.vocabulary_size, (longest - 1,), generator=generator)])
    own_chunks[0] = torch.zeros(longest, dtype=torch.int64)
    replaced = torch.tensor([int(number % 3 == 1) for number in range(pairs)])
    paired = [other[number] if replaced[number] else own[number] for number in range(pairs)]
    paired_chunks = [other_chunks[number] if replaced[number] else own_chunks[number] for number in range(pairs)]
    own_captions = captions_of(own, own_chunks)
    own_captions.vacuous_BL = (own_captions.token_ids_BL > 3) & (own_captions.token_ids_BL < 20)
    first, second = torch.randn(2, pairs, 3, *IMAGE_PX, generator=generator)
    batch = Batch(
        image_BCHW=first,
        second_image_BCHW=second,
        own=own_captions,
        paired=captions_of(paired, paired_chunks),
        replaced_B=replaced,
        identity_B=torch.tensor(identities),
        group_pairs=group_pairs,
        epoch=epoch,
    )
    asked = config.needs(IMAGE_PX).draws
    drawn = [
        draw_pair(asked, generator=generator_of(seed=1, epoch=0, key=str(number), use="draws"), num_tokens=len(own[number]))
        for number in range(pairs)
    ]
    return batch, stack_draws(asked, drawn, length=own_captions.token_ids_BL.shape[1])


def part_of_step(batch: Batch, draws: Draws, rows: slice) -> tuple[Batch, Draws]:
    """The pairs of some rows as a step of their own."""

    def captions(whole: Captions) -> Captions:
        weight = whole.chunk_weight_BC
        return Captions(
            token_ids_BL=whole.token_ids_BL[rows],
            lengths=whole.lengths[rows],
            chunk_id_BL=whole.chunk_id_BL[rows],
            chunk_weight_BC=None if weight is None else weight[rows],
            vacuous_BL=None if whole.vacuous_BL is None else whole.vacuous_BL[rows],
        )

    part = replace(
        batch,
        first_group=batch.first_group + (rows.start or 0) // batch.group_pairs,
        image_BCHW=batch.image_BCHW[rows],
        second_image_BCHW=batch.second_image_BCHW[rows],
        own=captions(batch.own),
        paired=captions(batch.paired),
        replaced_B=batch.replaced_B[rows],
        identity_B=batch.identity_B[rows],
    )
    recorded = {name: choice[rows] for name, choice in draws.recorded.items()}
    for name in {"negative_image", "negative_caption"} & set(recorded):
        recorded[name] = recorded[name] - (rows.start or 0)  # rows of the part
    return part, Draws(numbers={name: number[rows] for name, number in draws.numbers.items()}, recorded=recorded)


def on_gpu(batch: Batch) -> Batch:
    """The batch with its images and identities on the GPU."""
    for name in ("image_BCHW", "second_image_BCHW", "replaced_B", "identity_B"):
        setattr(batch, name, getattr(batch, name).cuda())
    return batch


def with_fixed_choices(batch: Batch, draws: Draws) -> Draws:
    """Hard negatives and words given, so that rounding cannot turn one choice into another."""
    other = torch.arange(batch.num_pairs).view(-1, GROUP_PAIRS).roll(1, 1).flatten()
    words = torch.randint(4, BERT.vocabulary_size, batch.own.token_ids_BL.shape, generator=torch.Generator().manual_seed(5))
    return replace(draws, recorded={"negative_image": other, "negative_caption": other, "words": words})


def with_chosen_words(draws: Draws, select_BL: Tensor) -> Draws:
    """The numbers of which MLM chooses just these tokens; what becomes of a chosen token stays."""
    mlm_B4L = draws["mlm"].clone()
    mlm_B4L[:, 0] = torch.where(select_BL, 0.0, 1.0)
    return replace(draws, numbers={**draws.numbers, "mlm": mlm_B4L})


def total_loss(method: Any, losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimised."""
    return torch.stack([method.weights[name] * value for name, value in losses.items()]).sum()


def gradients(method: Any) -> dict[str, Tensor]:
    """Gradients of all trainable parameters by name; one that is missing is an error."""
    found = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            found[name] = parameter.grad
    return found
