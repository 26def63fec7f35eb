"""What a random order of the gallery scores: the floor that every result is read against.

Shapes: Q queries, G gallery.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbps.evaluation.metric_names import RANKS
from tbps.evaluation.metrics import Metrics


def chance(num_relevant_Q: Sequence[int] | Tensor, num_gallery: int) -> Metrics:
    """Expected metrics of a gallery in random order; exact, nothing is drawn.

    With n relevant of G entries:  P(hit within k) = 1 - C(G-n, k) / C(G, k);
    E[AP] = (H_G + (n-1)/(G-1) (G - H_G)) / G with H_G = 1 + 1/2 + ... + 1/G, from E[hits up to r | r relevant] =
    1 + (r-1)(n-1)/(G-1);  E[INP] = sum_r n/r C(r-1, n-1) / C(G, n).
    """
    relevant_Q = torch.as_tensor(num_relevant_Q, dtype=torch.int64)
    counts, how_many = relevant_Q.unique(return_counts=True)
    parts = [
        _chance_of(int(count), num_gallery).expand(int(times), -1) for count, times in zip(counts, how_many, strict=True)
    ]
    expected_Q5 = torch.cat(parts)
    matched_Q = torch.repeat_interleave(counts, how_many) > 0
    rank_1, rank_5, rank_10 = expected_Q5[:, :3].mean(dim=0).tolist()
    mean_ap, mean_inp = expected_Q5[matched_Q, 3:].mean(dim=0).tolist()
    return Metrics(
        rank_1=rank_1,
        rank_5=rank_5,
        rank_10=rank_10,
        mAP=mean_ap,
        mINP=mean_inp,
        num_queries=len(matched_Q),
        num_without_match=int((~matched_Q).sum()),
    )


def _chance_of(relevant: int, num_gallery: int) -> Tensor:
    """Expected rank_1, rank_5, rank_10, AP, INP of one query with `relevant` of `num_gallery` entries, as (5,)."""
    if relevant == 0:
        return torch.zeros(5, dtype=torch.float64)
    place_G = torch.arange(1, num_gallery + 1, dtype=torch.float64)
    # P(no hit in the first r) = prod_{i < r} (G - n - i) / (G - i)
    miss_G = ((num_gallery - relevant - place_G + 1).clamp(min=0) / (num_gallery - place_G + 1)).cumprod(dim=0)
    hits = [1 - float(miss_G[min(k, num_gallery) - 1]) for k in RANKS]
    harmonic = float((1 / place_G).sum())
    slope = (relevant - 1) / (num_gallery - 1) if num_gallery > 1 else 0.0
    average_precision = (harmonic + slope * (num_gallery - harmonic)) / num_gallery
    log_last_G = torch.special.gammaln(place_G) - torch.special.gammaln((place_G - relevant + 1).clamp(min=1))
    log_last_G = log_last_G.masked_fill(place_G < relevant, -torch.inf)
    last_G = torch.softmax(log_last_G, dim=0)
    penalty = float((last_G * relevant / place_G).sum())
    return 100 * torch.tensor([*hits, average_precision, penalty], dtype=torch.float64)
