"""Settings of the weights that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where weights come from when the run folder has no checkpoint: `weights`, else `bert`/`vit`, else scratch."""

    weights: str = ""
    """A file made by `tbps convert` or exported from a run, or a run folder (its best checkpoint)."""
    bert: str = ""
    """BERT weights: a Hugging Face name or local path."""
    vit: str = ""
    """ViT weights: a Hugging Face name or local path."""
    sha256: str = ""
    """Expected digest of the `weights` file; empty = not checked."""
