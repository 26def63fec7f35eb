import pytest

from tbps.reporting.chart import make_chart, nice_ticks, short
from tbps.reporting.curves import thin


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (3, 97, [0, 25, 50, 75, 100]), (-1.2, 0.9, [-2, -1, 0, 1]), (5, 5.1, None)],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, ticks: list[float] | None) -> None:
    found = nice_ticks(low, high, most=4)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 6
    if ticks is not None:
        assert found == pytest.approx(ticks)


def test_lines_lie_where_their_values_say() -> None:
    chart = make_chart("loss", {"a": [(0, 0.0), (100, 10.0)], "b": [(50, 5.0)]}, width=200, height=100)
    first, last = (tuple(map(float, point.split(","))) for point in chart.lines[0].points.split())
    assert first == (chart.left, chart.bottom)
    assert last == (chart.right, chart.top)
    assert chart.lines[1].single
    assert chart.lines[1].end_x == pytest.approx((chart.left + chart.right) / 2, abs=0.1)
    assert chart.lines[1].end_y == pytest.approx((chart.top + chart.bottom) / 2, abs=0.1)
    assert [tick.label for tick in chart.x_ticks] == ["0", "25", "50", "75", "100"]


@pytest.mark.parametrize("value", [0.0, 1e-5, -3.0, 1e9])
def test_a_constant_curve_has_a_chart(value: float) -> None:
    chart = make_chart("x", {"x": [(1, value), (2, value)]})
    heights = {point.split(",")[1] for point in chart.lines[0].points.split()}
    assert len(heights) == 1
    assert chart.top <= float(heights.pop()) <= chart.bottom


def test_long_curves_become_means_of_neighbours() -> None:
    points = [(float(x), float(x % 2)) for x in range(1000)]
    thinned = thin(points, most=100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 0.5)
    assert thin(points[:50], most=100) == points[:50]


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0, 12_000, 1e-5, 75.03125, -0.5)] == ["0", "12k", "1e-05", "75.03", "-0.5"]
