"""faiss finds what exact search finds, also of an index that has grown since, and what is missing or damaged is said."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_index import random_index

from tbps.search.approximate import Approximate, build
from tbps.search.exact import best_rows


def queries(number: int, width: int = 64) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(9)), dim=1)


def test_it_finds_what_exact_search_finds(tmp_path: Path) -> None:
    index = random_index(tmp_path, segments=[3000, 2000])
    assert Approximate.open(index) is None
    said = build(index)
    assert "codes of 5,000 rows built in" in said and "the best 1,000 are computed" in said
    assert float(said.rpartition(" ")[2]) > 0.99
    opened = Approximate.open(index)
    assert opened is not None
    mostly, hardly = np.random.default_rng(0).random(5000) < 0.8, np.zeros(5000, bool)
    hardly[[5, 17, 4000]] = True
    hits = 0
    for query in queries(20):
        for allowed in (mostly, hardly):
            exact = best_rows(query, index.blocks(), num_rows=5000, top=10, allowed_N=allowed)[0].tolist()
            found, similarity = opened.best_rows(query, index, top=10, allowed_N=allowed)
            assert allowed[found].all() and (np.diff(similarity) <= 0).all() and len(found) == len(exact)
            hits += len(set(found.tolist()) & set(exact))
    assert hits / (20 * (10 + 3)) > 0.99


def test_near_pictures_get_more_candidates(tmp_path: Path) -> None:
    """In a narrow cone codes are much alike: the number grows until the goal is reached, and is kept."""
    index = random_index(tmp_path, segments=[4000, 4000], cone=0.1)
    said = build(index)
    found = re.search(r"the best ([\d,]+) are computed; recall at 10 against exact search ([\d.]+)$", said)
    assert found is not None and int(found[1].replace(",", "")) > 1000 and float(found[2]) >= 0.995, said
    opened = Approximate.open(index)
    assert opened is not None
    hits = 0
    for row in range(0, 8000, 100):
        query = torch.from_numpy(index.feature(row)).float()
        exact = best_rows(query, index.blocks(), num_rows=8000, top=10)[0].tolist()
        hits += len(set(exact) & set(opened.best_rows(query, index, top=10, allowed_N=index.live_N)[0].tolist()))
    assert hits / 800 > 0.99


def test_rows_appended_since_are_found_too(tmp_path: Path) -> None:
    build(random_index(tmp_path, segments=[1000]))
    grown = random_index(tmp_path, segments=[1000, 300])
    opened = Approximate.open(grown)
    assert opened is not None and (opened.num_rows, grown.num_rows) == (1000, 1300)
    for row in (3, 999, 1000, 1299):
        query = torch.from_numpy(grown.feature(row)).float()
        assert opened.best_rows(query, grown, top=1, allowed_N=grown.live_N)[0].tolist() == [row]


def test_codes_of_another_index_are_refused(tmp_path: Path) -> None:
    build(random_index(tmp_path, segments=[700]))
    other = random_index(tmp_path, segments=[700], seed=1)
    with pytest.raises(ValueError, match="is of another index; tbps index --faiss builds it again, and --exact searches"):
        Approximate.open(other)
    build(other)
    (tmp_path / "faiss.codes").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"faiss\.codes cannot be read \(.*\); tbps index --faiss builds it again"):
        Approximate.open(other)


def test_few_pictures_and_a_missing_library_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = random_index(tmp_path, segments=[100])
    with pytest.raises(ValueError, match="has 100 pictures, expected at least 640 for --faiss; exact search of so few"):
        build(few)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"faiss cannot be imported .*: pip install faiss-cpu, or search with --exact"):
        build(few)
