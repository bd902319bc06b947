# SPDX-License-Identifier: Apache-2.0
"""Other programs: they end with this process, and say what, where and why when they fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwgen.errors import ToolError
from hwgen.processes import failure, run_tool, started

#: Two processes, one started by the other; they print their numbers.
TWO = "sleep 300 & echo $! $$; wait"
#: A process that starts them and waits.
PARENT = f"""
import subprocess, sys
from hwgen.processes import started
with started(["sh", "-c", {TWO!r}], stdout=subprocess.PIPE) as process:
    print(process.stdout.readline(), flush=True)
    process.wait()
"""


def runs(process: int) -> bool:
    """Whether it is there, and no zombie that nobody has asked for."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def check_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(map(runs, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_started_ends_with_it(sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(runs, children))
        parent.send_signal(sent)
        parent.wait()
    check_end(children)


def test_an_exception_ends_all_of_it() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        started(["sh", "-c", TWO], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        raise KeyboardInterrupt
    check_end(children)


def test_what_has_ended_is_not_killed_later() -> None:
    """A number of a process that has ended may be another's by then."""
    code = """
import os
from hwgen import processes
told = []
tell = processes._guard.tell
processes._guard.tell = lambda *now: (told.append(now), tell(*now))
with processes.started(["true"]) as process:
    process.wait()
assert told == [("+", process.pid), ("-", process.pid)]
# Another takes the place of the one that has ended: the guard leaves it alone.
tell("+", {sleeper})
tell("-", {sleeper})
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as sleeper:
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{sleeper}", str(sleeper.pid))], check=False
        )
        assert done.returncode == -signal.SIGKILL
        time.sleep(0.5)
        assert sleeper.poll() is None
        sleeper.kill()


VERILATOR = """\
%Error: top.v:12:5: syntax error, unexpected endmodule
   12 | endmodule
%Error: Exiting due to 1 error(s)
"""
VERILATOR_WARNING = """\
%Error-PINMISSING: sub/top.v:7:3: Instance has missing pin: 'clk'
        ... For error description see https://verilator.org/warn/PINMISSING
"""
COMPILER = """\
In file included from simulation_0.cpp:5:
main.cpp: In function 'int main()':
main.cpp:3:27: error: 'class Vdut' has no member named 'p'
"""


@pytest.mark.parametrize(
    ("status", "output", "line"),
    [
        (1, VERILATOR, "top.v:12:5: X must succeed, but ended with status 1 (syntax error, "),
        (1, VERILATOR_WARNING, "sub/top.v:7:3: X must succeed, but ended with status 1 (Instance"),
        (1, COMPILER, "main.cpp:3:27: X must succeed, but ended with status 1 ('class Vdut' has"),
        (2, "nobody knows", "X must succeed, but ended with status 2\n"),
        (-11, "", "X must succeed, but was ended by signal SIGSEGV"),
        (-9, "", "X must succeed, but was ended by signal SIGKILL (out of memory, probably)"),
        (1, "g++: fatal error: Killed signal terminated program cc1plus", "X must succeed, but e"),
    ],
)
def test_a_failure_says_what_where_and_why(
    status: int, output: str, line: str, tmp_path: Path
) -> None:
    error = failure("X", status, output, tmp_path)
    assert str(error).startswith(line)
    assert error.detail.splitlines() == [x for x in output.splitlines() if x in error.detail]
    assert ("out of memory" in str(error)) == (status == -9 or "Killed" in output)


@pytest.mark.parametrize("said", [True, False])
def test_a_full_disk_is_said(said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tool, or seen afterwards: not every tool says it."""
    output = "/tmp/x.s: fatal error: error writing: No space left on device" if said else ""
    if not said:
        usage = type("Usage", (), {"free": 0})
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ToolError) as caught:
        run_tool(["sh", "-c", f"echo '{output}'; exit 1"], cwd=tmp_path, what="Compiling main.cpp")
    assert str(caught.value).startswith(
        f"{tmp_path}: The disk must have room for what compiling main.cpp writes, and has"
        " none; make room, or set HWGEN_CACHE"
    )
    assert "No space left on device" in str(caught.value)
    assert caught.value.detail == output


def test_a_tool_that_is_done_gives_its_output(tmp_path: Path) -> None:
    assert run_tool(["sh", "-c", "pwd; echo two >&2"], cwd=tmp_path, what="A shell") == (
        f"{tmp_path}\ntwo\n"
    )


def test_a_tools_temporary_files_lie_in_its_folder(tmp_path: Path) -> None:
    """Where a killed tool leaves them they go with what is unfinished."""
    script = "import tempfile; print(tempfile.mkstemp()[1])"
    told = run_tool([sys.executable, "-c", script], cwd=tmp_path, what="a tool")
    assert Path(told.strip()).parent == tmp_path
