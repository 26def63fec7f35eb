import pytest

from tbps.text.cleaning import clean_caption


@pytest.mark.parametrize(
    ("caption", "space", "delete"),
    [
        ("A red shirt.His hat", "a red shirt his hat", "a red shirthis hat"),
        ("T-shirt/jeans,  BLACK;shoes", "t shirt jeans black shoes", "t shirt jeans blackshoes"),
        ("The woman's 'big' bag, men's", "the womans big bag mens", "the womans big bag mens"),
        ("a shirt that says ``Love''", "a shirt that says love", "a shirt that says ``love"),
        ("The woman\u2019s \u201cbig\u201d bag", "the womans big bag", "the woman\u2019s \u201cbig\u201d bag"),
        ("<person> (left) #1: hi!\n", "person left 1 hi", "person left 1 hi"),
        ("...", "", ""),
        (" \t\n", "", ""),
        ('~*"?', "", ""),
    ],
)
def test_clean(caption: str, space: str, delete: str) -> None:
    assert clean_caption(caption, cleaning="space") == space
    assert clean_caption(caption, cleaning="delete") == delete


def test_none_changes_white_space_alone() -> None:
    assert clean_caption("  A red\tshirt.His <person>\n", cleaning="none") == "A red shirt.His <person>"
