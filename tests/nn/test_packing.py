"""Packed layouts: nothing lost on the way to the padded view, to the view by image, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tbps.nn.packing import Layout, Packing, Parcel, Rows, _RowPlan, lay_out, upload

CPU = torch.device("cpu")


def in_buckets(rows: Rows, x_N: torch.Tensor) -> torch.Tensor:
    """What self-attention makes of packed numbers if nothing attends to anything: into the buckets' views and back."""
    return rows.pick(x_N)[rows.queries.row_T][rows.queries.place_N]


def by_image(rows: Rows, x_R: torch.Tensor) -> torch.Tensor:
    assert rows.by_image is not None
    return x_R[rows.by_image.row_T][rows.by_image.place_N]


def grids(shapes: list[tuple[int, int]], x_T: torch.Tensor) -> list[torch.Tensor]:
    """The numbers of all views, view by view."""
    assert len(x_T) == sum(first * second for first, second in shapes)
    parts = x_T.split([first * second for first, second in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def image_grids(rows: Rows) -> list[torch.Tensor]:
    assert rows.by_image is not None
    return grids([view.queries for view in rows.images], rows.by_image.row_T)


def query_grids(rows: Rows) -> list[torch.Tensor]:
    row_T = rows.queries.row_T
    return grids([bucket.queries for bucket in rows.buckets], row_T if rows.row_R is None else rows.row_R[row_T])


def key_grids(rows: Rows) -> list[torch.Tensor]:
    return grids([bucket.keys for bucket in rows.buckets], rows.key_T)


def random_layout(seed: int, *, images: int | None = 5) -> tuple[Layout, Packing, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 9, 11)
    layout = lay_out(tokens, image=None if images is None else rng.integers(0, images, 11), num_images=images or 0)
    return layout, layout.to(CPU), tokens


@pytest.mark.parametrize("images", [None, 5])
@pytest.mark.parametrize("seed", range(5))
def test_padded_view_and_back(seed: int, images: int | None) -> None:
    layout, packing, tokens = random_layout(seed, images=images)
    padded = torch.arange(11 * tokens.max()).view(11, -1)  # every place of the padded view has its own number
    packed = padded[torch.from_numpy(layout.sequence_N), torch.from_numpy(layout.position_N)]
    assert len(packed) == tokens.sum()
    again = packed[packing.grid_SL]
    for sequence, length in enumerate(tokens):
        assert torch.equal(again[sequence, :length], padded[sequence, :length])
    assert torch.equal(packing.view.collect(packing.view.lay(packed[:, None]))[:, 0], packed)
    assert torch.equal(in_buckets(packing.all, packed), packed)
    assert torch.equal(packed[packing.first_S], padded[:, 0])
    assert torch.equal(packing.position_N, torch.from_numpy(layout.position_N))


@pytest.mark.parametrize("seed", range(5))
def test_view_by_image_and_back(seed: int) -> None:
    layout, packing, tokens = random_layout(seed)
    assert layout.image_S is not None
    image_N = torch.from_numpy(layout.image_S[layout.sequence_N])
    assert torch.equal(image_N, image_N.sort().values)  # grouped by image
    number_N = torch.arange(tokens.sum())
    (grid_IQ,) = image_grids(packing.all)
    shown = number_N[grid_IQ]
    for image in range(5):
        expected = number_N[image_N == image]
        assert torch.equal(shown[image, : len(expected)], expected)
    assert torch.equal(by_image(packing.all, number_N), number_N)


def test_sequences_of_an_image_keep_their_order() -> None:
    layout = lay_out([2, 1, 3, 1], image=[1, 0, 1, 0], num_images=3)
    assert layout.sequence_N.tolist() == [1, 3, 0, 0, 2, 2, 2] and layout.order_S.tolist() == [1, 3, 0, 2]
    assert layout.start_S.tolist() == [2, 0, 4, 1]
    (grid_IQ,) = image_grids(layout.to(CPU).all)
    assert grid_IQ.tolist() == [[0, 1, 0, 0, 0], [2, 3, 4, 5, 6], [0, 0, 0, 0, 0]]  # image 2 is not looked at


def random_groups(seed: int) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Sequences of 1 to 60 tokens in groups 2, 3 and 7, the tokens and groups of each; the last is not attended."""
    rng = np.random.default_rng(seed)
    tokens, image = rng.integers(1, 60, 70), rng.permutation([*range(6), *rng.integers(0, 6, 64)])
    group = np.array([2, 2, 3, 3, 3, 7])[image]
    return lay_out(tokens, keys=np.maximum(tokens - 1, 1), group=group, image=image, num_images=6), tokens, group


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_groups_views_are_those_that_it_has_alone(seed: int, share: float | None) -> None:
    """Its buckets, their order and padding, and its images: whatever other groups are laid out beside it."""
    layout, tokens, group = random_groups(seed)
    rng, number_N = np.random.default_rng(seed), np.arange(tokens.sum())
    read = None
    if share is not None:
        read = np.unique(np.concatenate([layout.start_S, rng.choice(number_N, int(share * len(number_N)))]))
    rows = layout.to(CPU, read=read).read
    assert rows.groups.numbers == (2, 3, 7)
    assert [(view.group, view.queries[0]) for view in rows.images] == [(2, 2), (3, 3), (7, 1)]
    assert max(bucket.number for bucket in rows.buckets) >= 1  # cut at all
    assert layout.image_S is not None
    first = before = image = 0
    buckets = list(zip(rows.buckets, query_grids(rows), key_grids(rows), strict=True))
    for number, size, grid_IQ in zip(rows.groups.numbers, rows.groups.rows, image_grids(rows), strict=True):
        members = np.flatnonzero(group == number)
        shown = layout.image_S[members] - image
        own = lay_out(tokens[members], keys=layout.keys_S[members], image=shown, num_images=shown.max() + 1)
        count = int(tokens[members].sum())
        mine = None if read is None else read[(read >= first) & (read < first + count)] - first
        alone = own.to(CPU, read=mine).read
        assert alone.groups.rows == (size,)
        found = [each for each in buckets if each[0].group == number]
        expected = list(zip(alone.buckets, query_grids(alone), key_grids(alone), strict=True))
        for (bucket, *mixed), (other, *single) in zip(found, expected, strict=True):
            assert bucket.number == other.number
            for grid, other_grid in zip(mixed, single, strict=True):
                assert torch.equal((grid - first).clamp(min=0), other_grid)
            assert bucket.key_bias_SL is not None and torch.equal(bucket.key_bias_SL, other.key_bias_SL)  # type: ignore[arg-type]
        assert torch.equal((grid_IQ - before).clamp(min=0), image_grids(alone)[0])
        first, before, image = first + count, before + size, image + len(grid_IQ)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_are_read_are_found_again(seed: int) -> None:
    layout, tokens, _ = random_groups(seed)
    number_N, chosen = torch.arange(tokens.sum()), np.random.default_rng(seed).choice(tokens.sum(), 200)
    read = np.concatenate([chosen, layout.start_S[::2]])
    packing = layout.to(CPU, read=read)
    rows, expected = packing.read, torch.from_numpy(np.unique(read))
    assert rows.row_R is not None and torch.equal(rows.row_R, expected) and torch.equal(rows.pick(number_N), expected)
    assert torch.equal(in_buckets(rows, number_N), expected)
    assert torch.equal(by_image(rows, expected), expected)
    assert sum(rows.groups.rows) == len(expected)
    assert torch.equal(expected[rows.first_S[::2]], packing.first_S[::2])
    for query_SQ, key_SL in zip(query_grids(rows), key_grids(rows), strict=True):  # each sequence looks at its own keys
        assert (layout.sequence_N[query_SQ[:, 0]] == layout.sequence_N[key_SL[:, 0]]).all()
    # A sequence that nobody reads is in no bucket.
    assert sum(map(len, key_grids(rows))) == len(np.unique(layout.sequence_N[expected.numpy()]))
    assert layout.to(CPU).read is not rows and packing.all.row_R is None


def test_an_image_that_nothing_looks_at_stays_with_its_group() -> None:
    """Image 2 is the first of group 5; nothing looks at it, nor at the whole of group 6."""
    layout = lay_out([2, 1], group=[4, 5], image=[0, 3], num_images=6, image_group=np.array([4, 4, 5, 5, 6, 6]))
    rows = layout.to(CPU).all
    assert [(view.group, view.queries) for view in rows.images] == [(4, (2, 2)), (5, (2, 1)), (6, (2, 0))]
    assert torch.equal(by_image(rows, torch.arange(3)), torch.arange(3))


def test_sequences_without_images_are_sorted_by_group() -> None:
    layout = lay_out([2, 1, 3, 1], group=[1, 0, 1, 0])
    assert layout.sequence_N.tolist() == [1, 3, 0, 0, 2, 2, 2]
    packing = layout.to(CPU)
    assert packing.all.groups.rows == (2, 5)
    assert packing.grid_SL.tolist() == [[2, 3, 0], [0, 0, 0], [4, 5, 6], [1, 0, 0]]


def test_rows_of_given_tokens() -> None:
    layout, _, tokens = random_layout(7)
    for sequence in range(11):
        for position in range(tokens[sequence]):
            row = layout.rows(np.array([sequence]), np.array([position]))[0]
            assert (layout.sequence_N[row], layout.position_N[row]) == (sequence, position)


def test_key_bias_hides_what_is_not_attended() -> None:
    bias = lay_out([3, 2], keys=[2, 1]).to(CPU).key_bias_SL
    assert bias is not None
    assert bias.tolist() == [[[[0, 0, -10_000]]], [[[0, -10_000, -10_000]]]]
    assert lay_out([3, 3]).to(CPU).key_bias_SL is None


def test_upload_keeps_arrays_apart() -> None:
    parts = upload([np.array([[1, 2], [3, 4]]), np.zeros(0, np.int64), np.array([True, False])], CPU)
    assert [part.tolist() for part in parts] == [[1, 2, 3, 4], [], [1, 0]]
    assert all(part.dtype == torch.int64 for part in parts)


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_gathers_have_the_gradients_of_torchs_own(seed: int, share: float | None) -> None:
    layout, tokens, _ = random_groups(seed)
    read = None if share is None else np.random.default_rng(seed).choice(tokens.sum(), int(share * tokens.sum()))
    rows = layout.to(CPU, read=read).read
    assert rows.by_image is not None
    for view in (rows.queries, rows.by_image, layout.to(CPU).view):
        x_ND = torch.randn(len(view.place_N), 3, dtype=torch.float64, requires_grad=True)
        weight_TD = torch.randn(len(view.row_T), 3, dtype=torch.float64)
        assert view.padding_T1 is not None and int(view.padding_T1.sum()) == len(view.row_T) - len(view.place_N)
        kept_TD = weight_TD.masked_fill(view.padding_T1, 0)  # nothing that is read depends on padding
        ours, torchs = view.lay(x_ND), x_ND.index_select(0, view.row_T)
        assert torch.equal(ours, torchs)
        for power in (1, 2):  # 2: its gradient depends on x, and is differentiated again
            totals = [(laid**power * kept_TD).sum() for laid in (ours, torchs)]
            found, expected = (torch.autograd.grad(total, x_ND, create_graph=True)[0] for total in totals)
            assert torch.allclose(found, expected, rtol=1e-12)
        again, expected = (torch.autograd.grad(each.square().sum(), x_ND)[0] for each in (found, expected))
        assert torch.allclose(again, expected, rtol=1e-12)
        laid_TD = torch.randn(len(view.row_T), 3, dtype=torch.float64, requires_grad=True)
        ours, torchs = view.collect(laid_TD), laid_TD.index_select(0, view.place_N)
        assert torch.equal(ours, torchs)
        found, expected = (torch.autograd.grad((each**2).sum(), laid_TD)[0] for each in (ours, torchs))
        assert torch.equal(found, expected)


def test_a_view_without_padding_masks_nothing() -> None:
    assert lay_out([3, 3]).to(CPU).view.padding_T1 is None


@pytest.mark.parametrize(("most", "width"), [(32, 32), (33, 40), (40, 40), (50, 56), (65, 80), (100, 112), (200, 224)])
def test_on_a_gpu_queries_of_images_have_one_of_few_widths(most: int, width: int) -> None:
    """cuDNN plans attention anew for each."""
    layout = lay_out([most, 1], image=[0, 1], num_images=2)
    parcel = Parcel()
    assert [view.queries for view in _RowPlan(layout, None, parcel, "cuda").images] == [(2, width)]
    assert [view.queries for view in _RowPlan(layout, None, parcel, "cpu").images] == [(2, most)]
