"""Check the memory, devices and parallel jobs that users ask for."""

import warnings
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

import torch

from sklearn_pgb._budget import MOST_JOBS

BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def parse_memory(max_memory: Any) -> float:
    """Return the bytes of a number or a string such as "500MB"."""
    amount = float(max_memory) if isinstance(max_memory, Real) else -1.0
    if isinstance(max_memory, str):
        text = max_memory.strip().upper().replace("IB", "B")
        unit = next((u for u in ("TB", "GB", "MB", "KB", "B") if text.endswith(u)), "")
        with suppress(ValueError):
            amount = float(text.removesuffix(unit)) * BYTES.get(unit, 1)
    if not amount > 0:
        raise ValueError(
            "max_memory must be a positive number of bytes or a text such as '500MB' "
            f"or '2GB', got {max_memory!r}."
        )
    return amount


def check_device(device: Any) -> torch.device:
    """Return a device that can compute, the CPU if None, or raise an error."""
    try:
        checked = torch.device("cpu" if device is None else device)
        # Reading a value fails on the device "meta", as its tensors have no data.
        torch.ones(1, device=checked).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as failure:
        # torch raises AssertionError if it was not compiled for the device.
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}: {failure}"
        ) from failure
    return checked


def device_or_cpu(device: Any) -> torch.device | None:
    """Return a device if this machine has it; or warn, and return None, the CPU.

    Names that torch does not know are errors.
    """
    try:
        return None if device is None else check_device(device)
    except ValueError as failure:
        try:
            torch.device(device)
        except (RuntimeError, TypeError):
            raise failure from None
        warnings.warn(
            f"device={device!r} is not there, so predictions are computed on the CPU: "
            f"{failure}. Set device=None if this is intended.",
            UserWarning,
            stacklevel=2,
        )
        return None


def jobs_for(n_tasks: int, n_jobs: Any) -> int | None:
    """Check `n_jobs` and limit it to the number of tasks."""
    if n_jobs is None:
        return None
    is_int = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool)
    if not is_int or n_jobs == 0 or abs(n_jobs) > MOST_JOBS:
        raise ValueError(
            f"n_jobs must be None or an int other than 0 between -{MOST_JOBS} and "
            f"{MOST_JOBS}, got {n_jobs!r}. -1 uses all cores."
        )
    # joblib would start idle processes.
    return min(int(n_jobs), max(n_tasks, 1))
