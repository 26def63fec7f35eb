"""BiLMa's targets of masked patches on CUHK-PEDES: labels of parts and clothes, against three that rebuild the image.

Run      python -m launch.sweep launch/sweeps/bilma_targets.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
The paper says that labels are better than three other targets (Sec. 4.2) and leaves their figures to its supplement, A.5,
which is not part of the text that we have; what the three are, in numbers, is in tbps/methods/clip/bilma.py.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.bilma_table2 import SEEDS

TITLE = "BiLMa, targets of masked patches"
POINTS = grid(
    "recipes/bilma.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "pixels": Row("--method.patch-target pixel"),
        "mean colour": Row("--method.patch-target mean-colour"),
        "feature": Row("--method.patch-target feature"),
        "label (BiLMa)": Row(published=(74.03, 89.59, 93.62, 66.57)),
    },
)
