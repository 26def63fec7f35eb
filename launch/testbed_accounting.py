"""Accounting for the testbed, so that sacct knows ended jobs: slurmdbd and its own MariaDB, where they are installed."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("mariadbd", "mariadb-install-db", "slurmdbd")
PACKAGES = "mariadb-server slurmdbd"

OFF = "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none"
"""Lines of slurm.conf without it."""

_ON = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux"""

_DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


def conf_lines(folder: Path, *, port: int) -> str:
    """Write slurmdbd.conf; return the lines that slurm.conf needs."""
    conf = folder / "slurmdbd.conf"
    conf.touch(mode=0o600)  # slurmdbd wants it to be its user's alone
    conf.write_text(_DBD_CONF.format(folder=folder, port=port, user=getpass.getuser()), encoding="utf-8")
    return _ON.format(folder=folder, port=port)


def start_database(folder: Path, programs: dict[str, str]) -> None:
    """Start MariaDB on a socket in a folder that only this user may enter. OSError or CalledProcessError if it cannot."""
    database = folder / "mariadb"
    if not database.exists():
        database.mkdir(mode=0o700)
        words = ["--no-defaults", f"--datadir={database}/data", f"--user={getpass.getuser()}", "--skip-test-db"]
        install = [programs["mariadb-install-db"], *words, "--auth-root-authentication-method=normal"]
        try:
            subprocess.run(install, check=True, capture_output=True)
        except BaseException:
            shutil.rmtree(database)  # half of it would be taken for all of it
            raise
    options = ["--skip-networking", "--innodb-lock-wait-timeout=900", "--innodb-buffer-pool-size=64M"]
    files = [f"--datadir={database}/data", f"--socket={database}/socket", f"--pid-file={folder}/mariadbd.pid"]
    with (folder / "mariadbd.log").open("ab") as log:
        subprocess.Popen(
            [programs["mariadbd"], "--no-defaults", f"--user={getpass.getuser()}", *files, *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def environment(folder: Path) -> dict[str, str]:
    """What slurmdbd needs to find the database."""
    return {"MYSQL_UNIX_PORT": str(folder / "mariadb/socket")}
