"""`job.json` in a run folder: the last job that was asked to do this run. Says nothing about how far the run is."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tbps.runs.atomic_file import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """One attempt at a run."""

    job: str
    """Slurm's id, such as 12 or 12_3; empty for an attempt on this machine."""
    logs: str
    """Folder of its log files."""
    arguments: tuple[str, ...]
    """Recipe file, variant, overrides."""
    micro_batch_pairs: int = 0
    """Set where an earlier attempt ran out of memory: pairs of one forward pass, fewer than before."""

    def error_logs(self) -> list[Path]:
        """What its processes wrote to stderr, the first rank's first."""
        pattern = f"{self.job}_*_log.err" if self.job else "here.log"
        return sorted(Path(self.logs).glob(pattern), key=lambda file: [*map(int, re.findall(r"\d+", file.name))])


def read_record(run_folder: Path) -> JobRecord | None:
    """None where no job was asked for."""
    file = run_folder / "job.json"
    if not file.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record = JobRecord(**{**values, "arguments": tuple(values["arguments"])})
        if not all(isinstance(text, str) for text in (record.job, record.logs, *record.arguments)):
            raise ValueError("a text is none")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); remove it, the run itself does not need it") from error


def write_record(run_folder: Path, record: JobRecord) -> None:
    """Replace what was known of an earlier attempt."""
    run_folder.mkdir(parents=True, exist_ok=True)
    write_json(run_folder / "job.json", asdict(record))
