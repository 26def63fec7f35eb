import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ready_python import fork_of_imports
from small_retrieval import IMAGE_PX, small_encoder, small_method, write_split
from torch import Tensor

from tbps.config.data import Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef import Albef
from tbps.config.methods.mars import Mars
from tbps.data.annotations import read_annotations
from tbps.data.loader import load_gallery
from tbps.data.pairs import EvaluationSet, FolderPairs
from tbps.data.views import normalise_pixels
from tbps.evaluation import direction
from tbps.evaluation.embedding import token_room
from tbps.evaluation.evaluate import Evaluated, evaluate
from tbps.evaluation.metrics import score_queries, summarise
from tbps.evaluation.ranking_order import final_order
from tbps.methods.albef.cross_calls import cross_encode, sequences
from tbps.methods.albef.family import AlbefFamily
from tbps.text.captions import make_captions
from tbps.text.token_batch import Captions

CPU = torch.device("cpu")
CONFIG = Evaluation(rerank_k=6, batch_images=4, batch_captions=8)


@pytest.fixture(autouse=True)
def one_thread_and_many_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(direction, "CHUNK_QUERIES", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(root: Path, kind: type[Albef] | type[Mars] = Albef, **options: Any) -> Evaluated:
    encoder = small_encoder(root)
    config = options.pop("config", CONFIG)
    method = options.pop("method", None) or small_method(encoder, kind=kind)
    evaluation_set = options.pop("evaluation_set", None) or write_split(root)
    return evaluate(method, evaluation_set, encoder, config, image_px=IMAGE_PX, pixels=Pixels(), device=CPU, **options)


def plain(value: object) -> object:
    """Nested results as comparable lists; NaN by its bits."""
    if isinstance(value, Tensor):
        return value.contiguous().view(torch.uint8).tolist()
    if dataclasses.is_dataclass(value):
        timing = {"embed_s", "rank_s", "num_processes"}
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in timing}
    return value


def naive_scores(method: AlbefFamily, evaluation_set: EvaluationSet, captions: Captions) -> tuple[Tensor, Tensor]:
    """(Q, G) similarity and matching score of every pair: one image, one caption at a time."""
    method.eval()
    similarity_QG = torch.zeros(evaluation_set.num_queries, evaluation_set.num_gallery)
    score_QG = torch.zeros_like(similarity_QG)
    with torch.no_grad():
        for image in range(evaluation_set.num_gallery):
            pixels = next(
                load_gallery(evaluation_set, [image], image_px=IMAGE_PX, pixels=Pixels(), batch_images=1, workers=0)
            )
            seen = method.embed_images(normalise_pixels(pixels, Pixels()))
            for query in range(evaluation_set.num_queries):
                one = Captions(
                    token_ids_BL=captions.token_ids_BL[query : query + 1],
                    lengths=captions.lengths[query : query + 1],
                    chunk_id_BL=captions.chunk_id_BL[query : query + 1],
                )
                read = method.embed_captions(one)
                similarity_QG[query, image] = read.feature_QE[0] @ seen.feature_IE[0]
                packed = method.pack_captions(one)
                crossed = cross_encode(
                    method.online.text_encoder,
                    ids_N=packed.token_id_N,
                    hidden_ND=read.hidden_ND,
                    image_IPD=seen.tokens_IPD,
                    shown=sequences(packed, offset=0, image=torch.zeros(1, dtype=torch.int64).numpy()),
                )
                score_QG[query, image] = method.itm_head(crossed.cls_states(slice(1)))[0, 1]
    return similarity_QG, score_QG


@pytest.mark.parametrize("kind", [Albef, Mars])
def test_both_directions_equal_one_pair_at_a_time(tmp_path: Path, kind: type[Albef] | type[Mars]) -> None:
    evaluation_set, encoder = write_split(tmp_path, num_identities=4), small_encoder(tmp_path)
    method = small_method(encoder, kind=kind)
    result = run(tmp_path, method=method, evaluation_set=evaluation_set, rerank_image_to_text=True)
    queries = range(evaluation_set.num_queries)
    captions = make_captions([encoder.encode(evaluation_set.query_caption(query), "x") for query in queries])
    similarity_QG, score_QG = naive_scores(method, evaluation_set, captions)
    query = torch.as_tensor(evaluation_set.query_identity_Q)
    gallery = torch.as_tensor(evaluation_set.gallery_identity_G)
    for found, similarity, score, asked, ranked in (
        (result.text_to_image, similarity_QG, score_QG, query, gallery),
        (result.image_to_text, similarity_QG.T, score_QG.T, gallery, query),
    ):
        candidate = similarity.argsort(dim=1, descending=True, stable=True)[:, :6]
        order = final_order(similarity, candidate, score.gather(1, candidate), tail="similarity")
        assert torch.equal(found.shown.gallery_AT, order[:, :10])
        assert found.final == summarise(score_queries(order, asked, ranked))
        torch.testing.assert_close(found.shown.similarity_AT, similarity.gather(1, order)[:, :10], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.shown.score_AT[:, :6], score.gather(1, order)[:, :6], atol=1e-5, rtol=0)
        assert found.shown.score_AT[:, 6:].isnan().all()
        assert found.num_candidates == 6


def test_similarity_alone_needs_no_matching(tmp_path: Path) -> None:
    result = run(tmp_path, rerank=False)
    assert result.text_to_image.reranked is None
    assert result.text_to_image.final == result.text_to_image.coarse
    assert result.text_to_image.shown.score_AT.isnan().all()
    assert (result.num_images, result.num_captions, result.num_identities) == (21, 42, 7)
    assert result.text_to_image.chance.rank_1 == pytest.approx(100 / 7)
    assert result.values()["rank_1"] == result.text_to_image.coarse.rank_1


def test_a_method_in_training_mode_is_left_in_it_and_dropout_plays_no_part(tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path)
    method = small_method(encoder)
    method.train()
    first = run(tmp_path, method=method)
    assert method.training
    assert plain(first) == plain(run(tmp_path, method=method))


def test_more_candidates_than_images_rank_all(tmp_path: Path) -> None:
    result = run(tmp_path, config=dataclasses.replace(CONFIG, rerank_k=1000))
    assert result.text_to_image.num_candidates == 21
    assert not result.text_to_image.shown.score_AT.isnan().any()


def test_the_tail_rule_changes_the_order_beyond_the_candidates_only(tmp_path: Path) -> None:
    by_similarity = run(tmp_path).text_to_image
    by_index = run(tmp_path, config=dataclasses.replace(CONFIG, tail="index")).text_to_image
    assert torch.equal(by_similarity.shown.gallery_AT[:, :6], by_index.shown.gallery_AT[:, :6])
    assert not torch.equal(by_similarity.shown.gallery_AT[:, 6:], by_index.shown.gallery_AT[:, 6:])


def test_a_sum_that_weighs_similarity_most_orders_by_it(tmp_path: Path) -> None:
    matching = run(tmp_path).text_to_image
    alone = run(tmp_path, rerank=False).text_to_image
    for weight, expected in ((0.0, matching), (1e12, alone)):
        config = dataclasses.replace(CONFIG, score="sum", similarity_weight=weight)
        found = run(tmp_path, config=config).text_to_image
        assert torch.equal(found.shown.gallery_AT, expected.shown.gallery_AT)
        assert found.reranked == expected.final
    assert not torch.equal(matching.shown.gallery_AT, alone.shown.gallery_AT)


def test_cut_captions_are_counted(tmp_path: Path) -> None:
    evaluation_set = write_split(tmp_path)
    encoder = small_encoder(tmp_path, max_tokens=12)
    result = evaluate(
        small_method(encoder), evaluation_set, encoder, CONFIG, image_px=IMAGE_PX, pixels=Pixels(), device=CPU, rerank=False
    )
    cut = sum(encoder.encode(evaluation_set.query_caption(q), "x").num_dropped_tokens > 0 for q in range(42))
    assert 0 < cut == result.num_cut_captions


def test_tokens_that_do_not_fit_go_to_the_host_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokens_IPD = torch.zeros(4, 10, 25_000, device="meta")
    roomy = token_room(tokens_IPD, num_images=1000, free_bytes=2_000_000_000)
    assert (roomy.device.type, caplog.text) == ("meta", "")
    spared = token_room(tokens_IPD[:, :1], num_images=10, free_bytes=1_900_000)
    assert (spared.device.type, spared.shape) == ("cpu", (10, 1, 25_000))
    assert "need 0.0 GB and the device has 0.0 GB free: they are kept in host memory (slower, same numbers)" in caplog.text


WITHOUT_A_SHARE = dataclasses.replace(CONFIG, batch_images=64, batch_captions=64)
"""All images are one block and all captions another: some process gets nothing."""


def _one_of(rank: int, size: int, root: Path, kind: type[Albef] | type[Mars]) -> None:
    torch.set_num_threads(1)
    direction.CHUNK_QUERIES = 8
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=size)
    torch.save(_both(root, kind), root / f"result-{rank}.pt")
    dist.destroy_process_group()


def _both(root: Path, kind: type[Albef] | type[Mars]) -> list[object]:
    evaluation_set = EvaluationSet(FolderPairs(root, "rstpreid", read_annotations(root, "rstpreid").split("test")))
    options: dict[str, Any] = {"evaluation_set": evaluation_set, "rerank_image_to_text": True}
    summed = dataclasses.replace(CONFIG, score="sum", similarity_weight=2.0)
    return [plain(run(root, kind, config=config, **options)) for config in (CONFIG, WITHOUT_A_SHARE, summed)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [(Albef, 2), (Mars, 3)])
def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path, kind: type[Albef] | type[Mars], size: int) -> None:
    write_split(tmp_path)
    alone = _both(tmp_path, kind)
    processes = [fork_of_imports(_one_of, rank, size, tmp_path, kind) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * size
    for rank in range(size):
        assert torch.load(tmp_path / f"result-{rank}.pt") == alone, f"rank {rank}"
