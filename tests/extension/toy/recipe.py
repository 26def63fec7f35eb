"""The toy method on a synthetic CUHK-PEDES.

Run      torchrun --nproc_per_node 2 toy/recipe.py tiny --data.root demo/cuhk-pedes
"""

from __future__ import annotations

from tbps.config.data import Captioning, Data, Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.recipe_command import recipe_command
from toy.config import Toy


def tiny() -> Run:
    """Some minutes on two CPU cores."""
    return Run(
        recipe="toy",
        name="tiny",
        method=Toy(),
        data=Data(
            benchmark="cuhk-pedes",
            root="demo/cuhk-pedes",
            captioning=Captioning(vocabulary="letters", max_words=70, max_tokens=512),
            image_px=(64, 32),
            pixels=Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bilinear"),
            augmentations=("flip", "erase"),
            batch_pairs=32,
            group_pairs=8,  # contrast is over the batch: this only says how it may be shared out
        ),
        optim=Optimiser(lr=3e-3),
        schedule=Schedule(epochs=20, min_lr=1e-5, warmup_steps=20, warmup_lr=1e-5),
        loop=Loop(log_steps=10, save_steps=100),
        evaluation=Evaluation(every_epochs=5, rerank_k=0),
    )


VARIANTS = {"tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__ or "")
