import colorsys
import random

import pytest

from tbps.synthetic.colours import COLOURS, contrast_of, mixed, sample_rgb, scaled


def mean_rgb(name: str) -> tuple[float, float, float]:
    generator = random.Random(0)
    values = [sample_rgb(name, generator) for _ in range(200)]
    return tuple(sum(channel) / len(values) for channel in zip(*values))  # type: ignore[return-value]


@pytest.mark.parametrize("name", list(COLOURS))
def test_a_colour_is_mostly_nearest_to_its_own_mean(name: str) -> None:
    means = {other: mean_rgb(other) for other in COLOURS}
    generator = random.Random(1)
    right = 0
    for _ in range(200):
        rgb = sample_rgb(name, generator)
        nearest = min(means, key=lambda other: sum((a - b) ** 2 for a, b in zip(rgb, means[other])))
        right += nearest == name
    assert right > 150


def test_hue_wraps_round_for_red() -> None:
    generator = random.Random(0)
    hues = [colorsys.rgb_to_hsv(*(channel / 255 for channel in sample_rgb("red", generator)))[0] for _ in range(200)]
    assert min(hues) < 0.03
    assert max(hues) > 0.97


def test_shades() -> None:
    assert scaled((100, 200, 50), 1.5) == (150, 255, 75)
    assert mixed((0, 0, 0), (100, 200, 50), 0.5) == (50, 100, 25)
    assert sum(contrast_of((10, 10, 10))) > 30
    assert sum(contrast_of((250, 250, 250))) < 750
