"""What may be the name of a run or of anything else that becomes a folder, a job or a line of a script."""

from __future__ import annotations

import os.path


def check_printable(what: str, text: str) -> None:
    """A newline would end the line of the script that the text stands in, and begin one that nobody wrote."""
    if not text.isprintable():
        raise ValueError(f"{what} is {text!r}, expected one line of printable characters")


def check_name(what: str, name: str) -> None:
    """ValueError unless `name` is one folder inside another; the rules of Slurm hold wherever the run is started."""
    check_printable(what, name)
    if "/" in name or name in ("", ".", "..") or name != name.strip():
        raise ValueError(f"{what} is {name!r}, expected the name of a folder without / or spaces at its ends")
    check_slurm_path(what, name)


def check_slurm_path(what: str, path: str) -> None:
    """Slurm replaces % and drops \\ in the names of log files."""
    if "%" in path or "\\" in path:
        raise ValueError(f"{what} is {path!r}; Slurm gives % and \\ a meaning in file names, choose another")


def check_folder(what: str, path: str) -> None:
    """ValueError unless `path` can be a folder, `~` and `~user` included."""
    check_printable(what, path)
    if not path.strip():
        raise ValueError(f"{what} is {path!r}, expected a folder; a dot means the current one")
    check_home(what, path)


def check_home(what: str, path: str) -> None:
    """ValueError where a path begins with ~ and the name of nobody."""
    if os.path.expanduser(path).startswith("~"):
        raise ValueError(
            f"{what} is {path!r}, and {path.partition('/')[0]} is no user of this machine; write the path in full"
        )
