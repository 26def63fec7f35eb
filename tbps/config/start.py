"""Settings of the weights that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where weights come from when the run folder has no checkpoint: `weights`, else the encoders' own, else scratch."""

    weights: str = ""
    """A file made by `tbps convert` or exported from a run, a run folder (its best checkpoint), a folder that `tbps export`
    wrote, or `hf:NAMESPACE/NAME`. The last two lack heads that only training reads: what they lack starts at random."""
    bert: str = ""
    """BERT weights: a Hugging Face name or local path."""
    vit: str = ""
    """ViT weights: a Hugging Face name or local path. Swin weights, for a method whose image encoder is a Swin."""
    clip: str = ""
    """CLIP's two towers, for a method that has them: a name of open_clip such as `ViT-B-16-quickgelu:openai`, a Hugging Face
    name, or a local path (a file of OpenAI, open_clip, IRRA or TBPS-CLIP, or exported from a run; a folder)."""
    sha256: str = ""
    """Expected digest of the `weights` file; empty = not checked."""
