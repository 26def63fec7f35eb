import pytest

from tbps.evaluation.ranks import Ranks


@pytest.mark.parametrize("num_rows", [1, 4, 10, 64, 65])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_consecutive_whole_blocks_and_cover_every_row_once(num_rows: int, size: int) -> None:
    shares = Ranks(rank=0, size=size).shares(num_rows, block=4)
    assert [row for share in shares for row in share] == list(range(num_rows))
    assert len(shares) == size
    alone = Ranks(rank=0, size=1).own_blocks(num_rows, block=4)
    together = [block for rank in range(size) for block in Ranks(rank=rank, size=size).own_blocks(num_rows, block=4)]
    assert together == alone


def test_worked_example() -> None:
    assert Ranks(rank=0, size=2).shares(10, block=4) == [range(4), range(4, 10)]
