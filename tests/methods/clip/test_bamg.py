"""BAMG: every option against the plainest reading, pair by pair; shared out; matched without a map; what is not trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_bamg import BAMG, GROUP_PAIRS, IMAGE_PX, PAIRS, build, maps, step
from tiny_irra import IDENTITIES, LENGTHS, captions, gradients
from torch import Tensor

from tbps.config.methods.bamg import Bamg, BamgWeights, BodyGraphSettings
from tbps.methods.clip.masked_graph import read_bodies
from tbps.nn.bottleneck_fusion import Fused
from tbps.nn.clip_text import pack_captions
from tbps.objectives.irra_masking import mask_words
from tbps.training.contrast import made_scope, make_rows

GRAPH = BodyGraphSettings()
OPTIONS = {
    "default": BAMG,
    "cross": replace(BAMG, fusion="cross"),
    "sequential": replace(BAMG, fusion_order="sequential"),
    "sampled": replace(BAMG, negatives="sampled"),
    "image negatives": replace(BAMG, caption_negatives=False),
    "graph in all": replace(BAMG, graph=replace(GRAPH, shown_to="all")),
    "nodes": replace(BAMG, graph=replace(GRAPH, reads="nodes")),
    "nodes in all": replace(BAMG, graph=replace(GRAPH, reads="nodes", shown_to="all")),
    "head and arms": replace(BAMG, graph=replace(GRAPH, adjacency="star-and-head-arms")),
    "visible": replace(BAMG, graph=replace(GRAPH, hide_masked=False)),
    "features": replace(BAMG, graph=replace(GRAPH, target="features")),
    "raw target": replace(BAMG, graph=replace(GRAPH, target_norm=False)),
    "moving target": replace(BAMG, graph=replace(GRAPH, target_gradient=True)),
    "masked alone": replace(BAMG, graph=replace(GRAPH, counted="masked")),
}
HARDEST = [name for name in OPTIONS if name != "sampled"]


def fuse(method: Any, image_PE: Tensor, text_LE: Tensor) -> Fused:
    """One pair, nothing padded."""
    begun = method.fusion.begin_image(image_PE[None]), method.fusion.begin_text(text_LE[None], None)
    return method.fusion(*begun, None, image_rows=None, text_rows=None)


def score(method: Any, image_PE: Tensor, text_LE: Tensor) -> Tensor:
    """The logit of one pair, by its [CLS] and its end token."""
    fused = fuse(method, image_PE, text_LE)
    hidden = F.gelu(method.match_head.dense(torch.cat([fused.image[0, 0], fused.text[0, -1]])))
    return method.match_head.out(hidden)[0]


def graph_of(method: Any, config: Bamg, image_PE: Tensor, row: int) -> tuple[Tensor, Tensor, list[int], int | None]:
    """Image tokens that hold the masked graph, target nodes, parts that are there, the masked one; by loops over pixels."""
    batch, draws = step()
    parts = read_parts(batch.fields["parsing_pascal"][row], batch.erased_BHW[row])  # type: ignore[index]
    patches = {part: [] for part in range(6)}  # type: ignore[var-annotated]
    for y, x in (parts > 0).nonzero().tolist():
        patches[int(parts[y, x]) - 1].append(y // 8 * 2 + x // 8)
    there = [part for part in range(6) if patches[part]]
    masked = there[int(draws["masked_part"][row, 0] * len(there))] if there else None
    graph = method.body_graph
    pooled = [
        torch.stack([image_PE[1 + patch].detach() for patch in patches[part]]).mean(0)
        if patches[part]
        else torch.zeros_like(image_PE[0])
        for part in range(6)
    ]
    node = torch.stack([pooled[part] if part in there else graph.absent_KE[part] for part in range(6)])
    given = torch.stack([graph.masked_KE[part] if part == masked else node[part] for part in range(6)])
    found = graph.graph(given[None])[0]
    target = torch.stack(pooled) if config.graph.target == "features" else graph.graph(node[None])[0]
    if not config.graph.target_gradient:
        target = target.detach()
    if config.graph.target_norm:
        target = (target - target.mean(1, keepdim=True)) / (target.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    tokens = list(image_PE)
    if config.graph.hide_masked and masked is not None:
        for patch in set(patches[masked]):
            tokens[1 + patch] = graph.hidden_E
    if config.graph.reads == "nodes":
        return torch.cat([torch.stack(tokens), found]), target, there, masked
    mean = found[there].mean(0) if there else found.mean(0)
    beside = [mean]
    for patch in range(8):
        shown = [part for part in there for one in patches[part] if one == patch]
        beside.append((sum(found[part] for part in shown) + (64 - len(shown)) * mean) / 64)  # type: ignore[arg-type]
    joined = torch.cat([torch.stack(tokens), torch.stack(beside)], dim=1)
    return joined @ graph.reduce.weight.T + graph.reduce.bias, target, there, masked


def read_parts(labels_HW: Tensor, erased_HW: Tensor) -> Tensor:
    """Parts, counted from 1, pixel by pixel."""
    torso = (labels_HW == 2).nonzero()
    person = torso if len(torso) else (labels_HW > 0).nonzero()
    middle = person[:, 1].float().mean() if len(person) else 0.0
    parts = torch.zeros_like(labels_HW)
    for y, x in (labels_HW > 0).nonzero().tolist():
        left = x < middle
        part = {1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5}[int(labels_HW[y, x])]
        parts[y, x] = part + (part >= 3 and not left)
    return parts * ~erased_HW


def plain_losses(method: Any, config: Bamg) -> dict[str, Tensor]:
    """The losses as a reader of the paper would compute them."""
    batch, draws = step()
    images = method.towers.image(batch.image_BCHW)
    ids, device = batch.own.token_ids_BL, torch.device("cpu")
    masked_ids, chosen = mask_words(ids, draws["mlm"], mask_id=config.mask_id)

    def text(of: Tensor, row: int) -> Tensor:
        return method.towers.text(pack_captions(of[row : row + 1], [LENGTHS[row]], device=device))

    texts = [text(ids, row) for row in range(PAIRS)]
    image = F.normalize(method.image_head(images[:, 0]), dim=1)
    caption = F.normalize(method.caption_head(torch.stack([one[-1] for one in texts])), dim=1)
    logits = image @ caption.T / method.temperature
    same = torch.tensor([[float(one == other) for other in IDENTITIES] for one in IDENTITIES])
    target = same / same.sum(1, keepdim=True)
    itc = sum(-(target * table.log_softmax(1)).sum(1).mean() for table in (logits, logits.T)) / 2
    graphs = [graph_of(method, config, images[row], row) for row in range(PAIRS)]
    seen = [graph[0] for graph in graphs] if config.graph.shown_to == "all" else list(images)
    means, words, errors = [], [], []
    for start in range(0, PAIRS, GROUP_PAIRS):
        group, values = range(start, start + GROUP_PAIRS), []
        for row in group:
            values.append(F.softplus(-score(method, seen[row], texts[row])))
            others = [other for other in group if IDENTITIES[other] != IDENTITIES[row]]
            if others:
                hard = max(others, key=lambda other, row=row: logits[other, row].item())  # type: ignore[misc]
                values.append(F.softplus(score(method, seen[hard], texts[row])))
                hard = max(others, key=lambda other, row=row: logits[row, other].item())  # type: ignore[misc]
                if config.caption_negatives:
                    values.append(F.softplus(score(method, seen[row], texts[hard])))
        means.append(torch.stack(values).mean())
    for row in range(PAIRS):
        hidden = fuse(method, seen[row], text(masked_ids, row)).text[0]
        for place in chosen[row].nonzero().flatten().tolist():
            words.append(F.cross_entropy(method.word_head(hidden[place][None])[0], ids[row, place]))
        joined, nodes, there, masked = graphs[row]
        fused = fuse(method, joined, texts[row]).image[0]
        counted = there if config.graph.counted == "present" else [part for part in there if part == masked]
        errors.append(torch.tensor(0.0))
        if counted:
            guess = guesses(method, config, fused, row)
            errors[-1] = torch.stack([(guess[part] - nodes[part]).square().mean() for part in counted]).mean()
    return {
        "itc": itc,
        "itm": torch.stack(means).mean(),
        "mlm": torch.stack(words).mean(),
        "mgm": torch.stack(errors).mean(),
    }  # type: ignore[dict-item]


def guesses(method: Any, config: Bamg, fused_PE: Tensor, row: int) -> list[Tensor]:
    if config.graph.reads == "nodes":
        return [method.body_graph.decoder(fused_PE[part - 6]) for part in range(6)]
    batch, _ = step()
    parts = read_parts(batch.fields["parsing_pascal"][row], batch.erased_BHW[row])  # type: ignore[index]
    found = []
    for part in range(1, 7):
        rows = [fused_PE[1 + y // 8 * 2 + x // 8] for y, x in (parts == part).nonzero().tolist()]
        found.append(method.body_graph.decoder(torch.stack(rows).mean(0) if rows else torch.zeros_like(fused_PE[0])))
    return found


@pytest.mark.parametrize("option", HARDEST)
def test_losses_and_gradients_equal_the_plain_ones(option: str) -> None:
    method = build(OPTIONS[option])
    losses, numbers, found = gradients(method, *step())
    expected = plain_losses(method, OPTIONS[option])
    assert losses.keys() == expected.keys() == method.weights.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=2e-5), name
    total = torch.stack([method.weights[name] * loss for name, loss in expected.items()]).sum()
    plain = torch.autograd.grad(total, list(method.parameters()))
    largest = max(gradient.abs().max().item() for gradient in plain)
    for (name, _), ours, theirs in zip(method.named_parameters(), found, plain, strict=True):
        assert (ours - theirs).abs().max().item() <= 1e-4 * theirs.abs().max().item() + 5e-6 * largest, name
    assert numbers.keys() >= {"temperature", "pairs_matched", "words_guessed", "mgm_of_masked", "mgm_target_variance"}
    assert all(torch.isfinite(number) and not number.requires_grad for number in numbers.values())


def test_each_option_makes_a_difference() -> None:
    found = {}
    for name, config in OPTIONS.items():
        losses, _, grads = gradients(build(config), *step())
        total = sum(gradient.double().square().sum() for gradient in grads)
        found[name] = (*(round(loss.item(), 5) for loss in losses.values()), round(float(total), 3))
    assert len(set(found.values())) == len(OPTIONS), found


def test_sampled_negatives_are_of_other_identities_and_follow_the_draws() -> None:
    method, (batch, draws) = build(OPTIONS["sampled"]), step()
    first, _ = method(batch, draws)
    draws.numbers["negatives"] = 1 - 1e-9 - draws["negatives"]
    second, _ = method(batch, draws)
    assert first["itm"] != second["itm"] and first["itc"] == second["itc"]


@pytest.mark.parametrize("option", ["default", "graph in all"])
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(option: str) -> None:
    method = build(OPTIONS[option])
    losses, numbers, whole = gradients(method, *step())
    parts = [step(slice(start, start + GROUP_PAIRS)) for start in range(0, PAIRS, GROUP_PAIRS)]
    rows = make_rows([lambda part=part: part for part in parts], method.contrast_rows)
    shared = []
    for batch, draws in parts:
        batch.scope = made_scope(batch, rows, shares=len(parts))
        shared.append(gradients(method, batch, draws))
    for name, loss in losses.items():
        values = [part[0][name] for part in shared]
        assert torch.stack(values).mean().item() == pytest.approx(loss.item(), rel=2e-5), name
    for name, number in numbers.items():
        values = [part[1][name] for part in shared]
        assert torch.stack(values).mean().item() == pytest.approx(number.item(), rel=2e-5), name
    noise = 5e-6 * max(gradient.abs().max().item() for gradient in whole)
    for found, expected in zip(zip(*(part[2] for part in shared), strict=True), whole, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=2e-4, atol=noise)


def test_bodies_with_one_part_or_none_are_defined() -> None:
    method = build()
    for kept in (1, 0):
        batch, draws = step()
        batch.fields["parsing_pascal"] = torch.where(maps() == kept, maps(), 0) if kept else torch.zeros_like(maps())
        bodies = read_bodies(batch.fields["parsing_pascal"], draws["masked_part"][:, 0], patch_px=8, stride_px=8)
        assert bodies.masked_BK.sum(1).tolist() == [kept and int(row != 5) for row in range(PAIRS)]
        losses, numbers, found = gradients(method, batch, draws)
        assert all(torch.isfinite(value).all() for value in (*losses.values(), *numbers.values(), *found))
        assert (losses["mgm"] > 0) == bool(kept)


def test_activation_checkpointing_changes_no_gradient_and_bfloat16_is_near() -> None:
    method = build()
    plain = gradients(method, *step())
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = method(*step())
    method.set_activation_checkpointing(True)
    assert method.fusion.checkpointing and method.towers.text.blocks.checkpointing
    again = gradients(method, *step())
    assert plain[0] == again[0]
    assert all(torch.equal(one, other) for one, other in zip(plain[2], again[2], strict=True))
    for name, loss in half.items():
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain[0][name].item(), rel=0.05), name


PARTS_OF = {
    "mgm": {"body_graph"},
    "mlm": {"word_head"},
    "itm": {"body_graph", "word_head", "fusion", "match_head"},
}


@pytest.mark.parametrize("left_out", PARTS_OF)
def test_a_loss_without_weight_is_left_out_with_its_parts(left_out: str) -> None:
    zeros = {"mgm": 0.0, "mlm": 0.0, "itm": 0.0} if left_out == "itm" else {left_out: 0.0}
    config = replace(BAMG, weights=replace(BamgWeights(), **zeros))
    method, whole = build(config), build()
    parts = {name.split(".")[0] for name, _ in method.named_parameters()}
    assert parts == {name.split(".")[0] for name, _ in whole.named_parameters()} - PARTS_OF[left_out]
    needs = config.needs(IMAGE_PX)
    assert needs.draws == BAMG.needs(IMAGE_PX).draws and needs.matcher == (left_out != "itm")
    assert needs.fields == (() if left_out in ("mgm", "itm") else ("parsing_pascal",))
    batch, draws = step()
    if not needs.fields:
        batch.fields.clear()
    losses, _, found = gradients(method, batch, draws)
    assert losses.keys() == {"itc", "itm", "mlm", "mgm"} - zeros.keys()
    names = [name for name, _ in method.named_parameters()]
    still = [name for name, gradient in zip(names, found, strict=True) if not gradient.any() and "key.bias" not in name]
    assert not still, "everything left is trained"
    assert (method.matcher() is None) == (left_out == "itm")


@pytest.mark.parametrize("option", ["default", "cross", "sequential", "graph in all", "nodes in all"])
@torch.no_grad()
def test_pairs_are_matched_image_by_image_without_a_map(option: str) -> None:
    method = build(OPTIONS[option]).eval()
    batch, _ = step()
    images, queries = method.embed_images(batch.image_BCHW), method.embed_captions(batch.own)
    matcher = method.matcher()
    scorer = matcher.prepare(batch.own, queries.hidden_ND)
    image_M, caption_M = (table.flatten() for table in np.meshgrid(np.arange(2), np.arange(PAIRS), indexing="ij"))
    found = scorer(image_IPD=images.tokens_IPD[:2], image_M=image_M, caption_M=caption_M)
    tokens = method.towers.image(batch.image_BCHW)
    if option == "graph in all":
        weight, bias = method.body_graph.reduce.weight, method.body_graph.reduce.bias
        tokens = tokens @ weight[:, : tokens.shape[2]].T + bias
    for place, (image, caption) in enumerate(zip(image_M, caption_M, strict=True)):
        text = pack_captions(batch.own.token_ids_BL[[caption]], [LENGTHS[caption]], device=torch.device("cpu"))
        expected = score(method, tokens[image], method.towers.text(text))
        assert found[place].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    for feature in (images.feature_IE, queries.feature_QE):
        assert torch.allclose(feature.norm(dim=1), torch.ones(PAIRS))


@torch.no_grad()
def test_more_pairs_than_are_computed_at_once_are_scored_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build().eval()
    batch, _ = step()
    many = captions([LENGTHS[row % PAIRS] for row in range(30)])
    images, queries = method.embed_images(batch.image_BCHW[:2]), method.embed_captions(many)
    scores = []
    for pairs, begun in ((32, 256), (7, 4)):
        monkeypatch.setattr("tbps.methods.clip.fusion_matcher.PAIRS", {"cpu": pairs})
        monkeypatch.setattr("tbps.methods.clip.fusion_matcher.CAPTIONS", begun)
        image_M, caption_M = np.arange(30) % 2, np.arange(30)[::-1].copy()
        scorer = method.matcher().prepare(many, queries.hidden_ND)
        scores.append(scorer(image_IPD=images.tokens_IPD, image_M=image_M, caption_M=caption_M))
    torch.testing.assert_close(scores[0], scores[1])


def test_training_starts_at_clip_and_the_temperature_stays_inside_its_bounds() -> None:
    from tbps.methods.registry import build_method

    method: Any = build_method(BAMG, image_px=IMAGE_PX)
    batch, draws = step()
    image = method.towers.image(batch.image_BCHW)
    torch.testing.assert_close(method.image_head(image), image)
    bodies = read_bodies(maps(), draws["masked_part"][:, 0], patch_px=8, stride_px=8)
    hidden = (bodies.share_BNK * bodies.masked_BK[:, None]).sum(2) > 0
    joined, _ = method.body_graph(image, bodies)
    torch.testing.assert_close(joined[:, 1:][~hidden], image[:, 1:][~hidden])
    torch.testing.assert_close(joined[:, 1:][hidden], method.body_graph.hidden_E.expand(int(hidden.sum()), -1))
    for start, expected in ((3.0, 0.5), (-1.0, 0.01)):
        with torch.no_grad():
            method.temperature.fill_(start)
        losses, numbers = method(batch, draws)
        assert numbers["temperature"].item() == pytest.approx(expected)
        assert torch.autograd.grad(losses["itc"], method.temperature)[0].abs() > 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="itm is 0 while mgm or mlm is not"):
        BamgWeights(itm=0)
    with pytest.raises(ValueError, match="no other loss trains the features"):
        BamgWeights(itc=0)
    with pytest.raises(ValueError, match=r"expected a multiple of method\.fusion_heads \(5\)"):
        replace(BAMG, fusion_heads=5)
