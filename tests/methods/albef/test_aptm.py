"""APTM: groups, attributes that nobody knows, the official gradient, left-out losses, what a group draws for its prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes import aptm as recipe
from tbps.config.encoders import Bert, Swin
from tbps.config.mals_prompts import mals_prompts
from tbps.config.methods.aptm import Aptm, AptmWeights
from tbps.data.batch import Batch, Draws
from tbps.data.contrast_scope import ContrastScope
from tbps.methods.albef.aptm_masks import Masking, choose_prompts
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

GROUP, PAIRS, WORDS = 4, 8, 60
IMAGE_PX = (32, 16)
ALL = AptmWeights(attribute_itc=0.3, attribute_itm=0.3, attribute_mlm=0.3)
LOCAL = ("itm", "mlm", "reworded_itm", "attribute_itc", "attribute_itm", "attribute_mlm")
"""Losses that are means over groups."""


def config(weights: AptmWeights = ALL, *, dropout: float = 0.0, **changes: Any) -> Aptm:
    return Aptm(
        swin=Swin(width=8, depths=(2, 2), heads=(2, 4), window=2, drop_path=2 * dropout, init_std=0.2),
        bert=Bert(
            width=16,
            layers=3,
            heads=2,
            intermediate=24,
            vocabulary_size=WORDS,
            max_positions=40,
            fusion_layer=1,
            dropout=dropout,
            cls_id=2,
            mask_id=4,
            init_std=0.3,
        ),
        weights=weights,
        projection=8,
        **changes,
    )


def method_of(settings: Aptm) -> Any:
    torch.manual_seed(0)
    return build_method(settings, image_px=IMAGE_PX).train()


def captions(rows: int, *, longest: int, seed: int) -> Captions:
    random = torch.Generator().manual_seed(seed)
    lengths = tuple(torch.randint(4, longest + 1, (rows,), generator=random).tolist())
    ids = torch.randint(5, WORDS, (rows, longest), generator=random)
    ids[:, 0] = 2
    for row, length in enumerate(lengths):
        ids[row, length - 1], ids[row, length:] = 3, 0
    return Captions(token_ids_BL=ids, lengths=lengths, chunk_id_BL=torch.zeros_like(ids), starts_BL=ids < 50)


def step(*, labels: Tensor | None = None) -> tuple[Batch, Draws]:
    torch.manual_seed(1)
    label = torch.randint(-1, 2, (PAIRS, 27)) if labels is None else labels
    own = captions(PAIRS, longest=12, seed=2)
    identity = torch.tensor([0, 1, 1, 2, 3, 3, 4, 5])
    batch = Batch(
        image_BCHW=torch.randn(PAIRS, 3, *IMAGE_PX),
        own=own,
        paired=own,
        replaced_B=torch.zeros_like(identity),
        identity_B=identity,
        group_pairs=GROUP,
        epoch=1.0,
        reworded=captions(PAIRS, longest=12, seed=3),
        prompts=captions(54, longest=8, seed=4),
        fields={"attributes": label.to(torch.int8)},
    )
    sizes = {"negatives": 2, "reworded_negatives": 2, "mlm": 1, "prompts": 1}
    return batch, Draws(numbers={name: torch.rand(PAIRS, size, dtype=torch.float64) for name, size in sizes.items()})


def one_group(batch: Batch, draws: Draws, group: int) -> tuple[Batch, Draws]:
    part = slice(group * GROUP, (group + 1) * GROUP)
    rows = range(part.start, part.stop)
    assert batch.reworded is not None
    alone = replace(
        batch,
        image_BCHW=batch.image_BCHW[part],
        own=batch.own.rows(rows),
        paired=batch.paired.rows(rows),
        replaced_B=batch.replaced_B[part],
        identity_B=batch.identity_B[part],
        reworded=batch.reworded.rows(rows),
        fields={name: values[part] for name, values in batch.fields.items()},
        first_group=group,
        scope=ContrastScope(batch.identity_B[part]),
    )
    return alone, Draws(numbers={name: values[part] for name, values in draws.numbers.items()})


def losses_of(method: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    torch.manual_seed(9)  # as a step does in all of its micro-batches
    found: dict[str, Tensor] = method(batch, draws)[0]
    return found


@pytest.mark.parametrize("masking", ["words", "official"])
def test_a_group_does_not_know_what_is_computed_beside_it(masking: str) -> None:
    method = method_of(config(dropout=0.2, masking=masking, official_tokens=16))
    batch, draws = step()
    together = losses_of(method, batch, draws)
    assert together.keys() == method.weights.keys() == {"itc", "reworded_itc", *LOCAL}
    apart = [losses_of(method, *one_group(batch, draws, group)) for group in range(2)]
    for name in LOCAL:
        mean = (apart[0][name] + apart[1][name]) / 2
        assert together[name].item() == pytest.approx(mean.item(), rel=1e-4), name
        assert abs(apart[0][name].item() - apart[1][name].item()) > 1e-4, name
    method.eval()
    still = losses_of(method, batch, draws)
    assert all(abs(still[name].item() - together[name].item()) > 1e-5 for name in ("itm", "mlm", "attribute_itc"))


def test_attributes_alone_read_no_captions() -> None:
    """The same losses as beside captions, a gradient in every parameter, and nothing of the captions."""
    weights = AptmWeights(
        itc=0, itm=0, mlm=0, reworded_itc=0, reworded_itm=0, attribute_itc=1, attribute_itm=1, attribute_mlm=1
    )
    settings = config(weights)
    needs = settings.needs(IMAGE_PX)
    assert (needs.captions, needs.contrast, needs.rewording) == (False, "group", None)
    method, beside = method_of(settings), method_of(config())
    beside.load_state_dict(method.state_dict())
    batch, draws = step()
    losses, expected = losses_of(method, batch, draws), losses_of(beside, batch, draws)
    assert losses.keys() == {"attribute_itc", "attribute_itm", "attribute_mlm"}
    assert not method.encode(batch).texts, "nothing is encoded that no loss reads"
    assert all(losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5) for name in losses)
    other = replace(batch, own=captions(PAIRS, longest=9, seed=8), reworded=None)
    assert {name: value.item() for name, value in losses_of(method, other, draws).items()} == {
        name: value.item() for name, value in losses.items()
    }
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, parameter in method.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert without == [] and all(parameter.requires_grad for parameter in method.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_attributes_that_nobody_knows(smoothing: float) -> None:
    method = method_of(config(label_smoothing=smoothing))
    batch, draws = step(labels=torch.full((PAIRS, 27), -1))
    losses = losses_of(method, batch, draws)
    assert all(losses[name].item() == 0.0 for name in losses if name.startswith("attribute"))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_gets_a_gradient_of_attributes_alone() -> None:
    method = method_of(config(AptmWeights(itm=0, mlm=0, reworded_itc=0, reworded_itm=0, attribute_mlm=1)))
    batch, draws = step(labels=torch.full((PAIRS, 27), -1))
    torch.stack(list(losses_of(method, batch, draws).values())).sum().backward()
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None for name, parameter in method.named_parameters() if name in trained)
    assert {name.partition(".")[0] for name in set(dict(method.named_parameters())) - trained} == {"itm_head"}


def test_the_official_gradient_of_the_contrast_is_divided_by_the_groups() -> None:
    gradients = {}
    for rule in ("whole", "official"):
        method = method_of(config(AptmWeights(itm=0, mlm=0, reworded_itc=0, reworded_itm=0), itc_gradient=rule))
        losses = losses_of(method, *step())
        losses["itc"].backward()
        gradients[rule] = (
            losses["itc"].item(),
            {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None},
        )
    assert gradients["whole"][0] == gradients["official"][0]
    for name, whole in gradients["whole"][1].items():
        factor = 1.0 if name == "temperature" else GROUP / PAIRS
        assert torch.allclose(gradients["official"][1][name], factor * whole, rtol=1e-4, atol=1e-7), name


def test_far_negatives_are_drawn_too_however_sure_the_model_is() -> None:
    """By the floor under every probability: without it, similarities over a small temperature leave one candidate."""
    method = method_of(config())
    batch, draws = step()
    with torch.no_grad():
        method.temperature.fill_(1e-4)
    draws.numbers["negatives"].fill_(1 - 1e-9)
    draws.numbers["reworded_negatives"].fill_(0.0)
    pending = method.start_negatives(batch, draws, method.encode(batch))
    last, first = pending["own"].wait(), pending["reworded"].wait()
    identity = batch.identity_B.tolist()
    for row in range(PAIRS):
        group = range(row // GROUP * GROUP, row // GROUP * GROUP + GROUP)
        others = [other for other in group if identity[other] != identity[row]]
        assert (last.image_B[row], last.caption_B[row]) == (others[-1], others[-1])
        assert (first.image_B[row], first.caption_B[row]) == (others[0], others[0])


def test_a_loss_that_is_left_out_changes_no_other() -> None:
    batch, draws = step()
    every = losses_of(method_of(config()), batch, draws)
    for left_out in ("reworded_itc", "attribute_itm", "mlm"):
        found = losses_of(method_of(config(replace(ALL, **{left_out: 0.0}))), batch, draws)
        assert found.keys() == every.keys() - {left_out}
        for name, loss in found.items():
            assert loss.item() == pytest.approx(every[name].item(), rel=1e-5), name


def test_what_no_loss_reaches_rests_and_is_named_where_it_is_read() -> None:
    method = method_of(config(AptmWeights(itm=0, mlm=0, reworded_itm=0)))
    resting = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    assert {name for name in resting if name.startswith("online.text_encoder.")} == {
        name
        for name, _ in method.named_parameters()
        if name.startswith(("online.text_encoder.layers.1.", "online.text_encoder.layers.2."))
    }
    assert method.untrained(reranks=False) == []
    assert {name.partition(".")[0] for name in method.untrained(reranks=True)} == {"online", "itm_head"}
    assert not any("word_head" in name for name in method.untrained(reranks=True))


def test_what_groups_draw_for_their_prompts() -> None:
    batch, draws = step()
    labels = batch.fields["attributes"].long().numpy()
    assert batch.prompts is not None
    masking = Masking(share=0.25, most=10, rule="words", official_tokens=0, mask_id=4, vocabulary_size=WORDS)
    found = choose_prompts(batch.prompts, labels, draws, masking, group_pairs=GROUP, matched=5)
    assert found.matched_GK.shape == (2, 5) and all(len(set(row)) == 5 for row in found.matched_GK.tolist())
    assert found.matched_GK[0].tolist() != found.matched_GK[1].tolist()
    group, prompt = np.divmod(found.prompt_M, 54)
    assert (found.image_M // GROUP == group).all()
    assert (labels[found.image_M, prompt // 2] == prompt % 2).all()
    able = [(g, p) for g in range(2) for p in range(54) if (labels[g * GROUP : g * GROUP + GROUP, p // 2] == p % 2).any()]
    assert list(zip(group.tolist(), prompt.tolist(), strict=True)) == able
    ids = batch.prompts.token_ids_BL.numpy()[prompt[found.masked.row_M], found.masked.position_M]
    assert (ids == found.masked.word_M).all() and set(found.masked.row_M) == set(range(len(able)))
    masked = [found.masked.token_ids_BL[group == g][prompt[group == g] == p] for g in range(2) for p in (1, 3)]
    assert len({row.tobytes() for row in masked}) > 2  # each group masks anew


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"masking": "official", "official_tokens": 41},
            r"official_tokens is 41, expected at most method.bert.max_positions",
        ),
        ({"weights": lambda: AptmWeights(itc=0)}, r"method.weights.itc is 0, expected more than 0"),
        (
            {"weights": lambda: AptmWeights(itc=0, itm=0, mlm=0, reworded_itc=0, reworded_itm=0, attribute_mlm=1)},
            r"method.weights.attribute_itc is 0 and no loss of captions has a weight, expected more than 0",
        ),
        ({"swin": lambda: Swin(depths=(2, 2))}, r"method.swin.depths names 2 stages and method.swin.heads 4"),
        ({"swin": lambda: Swin(heads=(4, 8, 16, 30))}, r"stage 3 of method.swin is 1024, expected a multiple of its heads"),
        ({"bert": lambda: Bert(full_cross_attention=True)}, r"full_cross_attention is on, expected off"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config(), **{name: value() if callable(value) else value for name, value in changes.items()})


def test_runs_that_do_not_fit() -> None:
    run = recipe.tiny()
    assert isinstance(run.method, Aptm)
    with pytest.raises(ValueError, match=r"itm and reworded_itm are 0, and evaluation.rerank_k \d+ ranks by the matching"):
        replace(run, method=replace(run.method, weights=AptmWeights(itm=0, reworded_itm=0)))
    with pytest.raises(ValueError, match=r"max_tokens is \d+ in training, expected at most method.official_tokens \(20\)"):
        replace(run, method=replace(run.method, masking="official", official_tokens=20))
    with pytest.raises(ValueError, match=r"score_processes is 4 and evaluation.score is matching, expected 1"):
        replace(run.evaluation, score="matching", score_processes=4)
    assert run.needs.prompts == () and run.needs.fields == ()
    attributes = replace(run, method=replace(run.method, weights=ALL)).needs
    assert attributes.prompts == mals_prompts() and attributes.fields == ("attributes",)
