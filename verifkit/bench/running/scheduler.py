"""The way to a Dask scheduler: its address, its file, or a SLURM cluster as Dask's configuration describes it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import dask
from distributed import Client

from verifkit.errors import MissingPackage, OptionError

CONNECT_SECONDS = 10


def connect(where: str, jobs: int | None) -> Client:
    """A client of the scheduler at `where`: an address, a scheduler file, or "slurm" for a cluster of our own.

    jobs: with "slurm", the cores to ask for; by default those of one SLURM job. Closing the client ends that cluster.
    Raises `OptionError` where no scheduler answers.
    """
    try:
        scheduler = slurm_cluster(jobs) if where == "slurm" else where if "://" in where else _address(where)
        return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: no address that Dask knows
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"no Dask scheduler answers at '{where}' within {CONNECT_SECONDS} s ({why})") from None


def _address(path: str) -> str:
    """The address in a scheduler file, as `dask scheduler --scheduler-file` writes it."""
    if not Path(path).is_file():
        raise OptionError(
            f"--cluster takes a scheduler's address (tcp://host:port), a scheduler file, or slurm, not '{path}'"
        )
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise OptionError(f"'{path}' is no scheduler file: name the one that `dask scheduler` wrote") from None


def slurm_cluster(jobs: int | None) -> Any:
    """A `dask_jobqueue.SLURMCluster` as Dask's configuration describes it, kept at its size as jobs end.

    Raises `OptionError` where the configuration says too little, and `MissingPackage`.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"--cluster slurm needs the package '{error.name}': run `pip install 'verifkit[cluster]'`"
        ) from None
    if shutil.which("sbatch") is None:
        raise OptionError("--cluster slurm needs `sbatch`, which is not here: start it where SLURM jobs are submitted")
    missing = [name for name in ("cores", "memory") if dask.config.get(f"jobqueue.slurm.{name}") is None]
    if missing:
        raise OptionError(
            f"Dask's configuration lacks jobqueue.slurm.{missing[0]}: set it, and queue and walltime as your site has "
            f"them, in ~/.config/dask/jobqueue.yaml"
        )
    cluster = SLURMCluster()
    count = 1 if jobs is None else math.ceil(jobs / dask.config.get("jobqueue.slurm.cores"))
    cluster.adapt(minimum_jobs=count, maximum_jobs=count)
    return cluster
