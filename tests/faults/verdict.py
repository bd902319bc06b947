# SPDX-License-Identifier: Apache-2.0
"""Pytest plugin of :mod:`inject`: writes what each test did, with the way of every exception.

One JSON object a line into the file that ``HWGEN_VERDICT`` names. After ``HWGEN_VERDICT_SECONDS``
the test that runs fails with :class:`HangError`, so that a hang has a way, too.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest


class HangError(Exception):
    """The test did not end in time."""


def _write(entry: dict[str, Any]) -> None:
    with open(os.environ["HWGEN_VERDICT"], "a") as file:
        file.write(json.dumps(entry) + "\n")


def _ring(signum: int, frame: object) -> None:
    raise HangError(f"not finished after {os.environ['HWGEN_VERDICT_SECONDS']} s")


def pytest_sessionstart() -> None:
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ["HWGEN_VERDICT_SECONDS"]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _write({"test": report.nodeid, "passed": True})


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """A test failed, or its module could not be imported."""
    assert call.excinfo is not None
    error = call.excinfo.value
    _write(
        {
            "test": node.nodeid,
            "passed": False,
            "types": [kind.__name__ for kind in type(error).__mro__],
            "message": (str(error).strip().splitlines() or [""])[0],
            "way": [[str(entry.path), entry.name] for entry in call.excinfo.traceback],
        }
    )
