# SPDX-License-Identifier: Apache-2.0
"""The complete top under back-pressure, bus errors and resets: every frame afterwards is exact.

One simulation per configuration runs all scenarios; each names its seed in its failure.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from hwgen.isa.instructions import OFFSET_BITS
from hwgen.sim.cocotb_bench import bins
from hwgen.sim.cocotb_bench.harness import run_bench
from hwgen.sim.cocotb_bench.program import make_frame

pytestmark = pytest.mark.verilator

Scenario = dict[str, Any]
AXI = ("ar", "r", "aw", "w", "b")
AXIL = ("axil_aw", "axil_w", "axil_b", "axil_ar", "axil_r")
#: Loads pile up behind R, stores behind B; the writes of one store meet the responses of others.
CROWD = {"ar": 0.6, "r": 0.3, "aw": 0.5, "w": 0.5, "b": 0.5, "b_delay": 500}
#: Instructions beyond END are requested, and come long after everything else.
OVERRUN = {"overrun_delay": 5000, "ar": 0.3}
#: Answers are quicker than requests: often a burst is the only one in flight.
SPARSE = {"ar": 0.05, "r": 0.9, "aw": 0.05, "w": 0.9, "b": 0.9}


def frames() -> list[Scenario]:
    """Each channel at 1 % and at 99 %, all at once at 99 % and at 5 %."""
    given = [dict.fromkeys((*AXI, *AXIL), p) for p in (0.99, 0.05)]
    given += [dict.fromkeys((*AXI, *AXIL), 0.99) | {channel: 0.01} for channel in AXI]
    given += [dict.fromkeys(AXI, 0.9) | dict.fromkeys(AXIL, 0.01)]
    given += [dict.fromkeys((*AXI, *AXIL), 0.99) | {channel: 0.01} for channel in AXIL]
    given += [dict.fromkeys((*AXI, *AXIL), 0.01) | {channel: 0.99} for channel in ("r",)]
    given += [
        OVERRUN,
        CROWD,
        CROWD | {"r": 0.1, "interleave": 1.0},
        CROWD | {"interleave": 0.0},
    ]
    return [{"kind": "frame", "chances": chances} for chances in given]


def random_frames(count: int, first: int) -> list[Scenario]:
    """Frames with random probabilities of all channels."""
    jobs = []
    for seed in range(first, first + count):
        rng = random.Random(seed)
        chances: dict[str, float] = {
            channel: rng.choice([0.05, 0.2, 0.5, 0.8, 0.99]) for channel in (*AXI, *AXIL)
        }
        chances |= {"interleave": rng.random(), "b_delay": rng.choice([0, 50, 400])}
        jobs.append({"kind": "frame", "frames": 2, "chances": chances})
    return jobs


def bus_errors() -> list[Scenario]:
    """Both responses on the first, a middle and the last beat, among at least four bursts."""
    cases: list[Scenario] = [
        {"channel": "R", "what": kind, "position": position}
        for kind in bins.READERS
        for position in bins.POSITIONS
    ]
    cases.append({"channel": "B", "what": "store"})
    common = {"kind": "bus error", "chances": CROWD}
    return [common | case | {"response": r} for r in bins.RESPONSES for case in cases]


def lonely_errors() -> list[Scenario]:
    """Both responses in the only burst in flight; the very first fetch and the very last store."""
    cases: list[Scenario] = [
        {"channel": "R", "what": kind, "port": 0, "skips": 4, "chances": SPARSE}
        for kind in bins.READERS
    ]
    first = {"channel": "R", "place": bins.FIRST_FETCH, "skips": 1, "chances": {"ar": 0.01}}
    cases += [first | {"position": position} for position in bins.POSITIONS]
    cases.append({"channel": "B", "what": "store", "skips": 4, "chances": SPARSE})
    # The response that END waits for.
    last = {"channel": "B", "place": bins.LAST_STORE, "skips": 1}
    cases += [last | {"chances": chances} for chances in (SPARSE, {"b_delay": 300})]
    common = {"kind": "bus error", "least": 1, "most": 1}
    return [common | case | {"response": r} for r in bins.RESPONSES for case in cases]


def load_errors() -> list[Scenario]:
    """Both responses while each of the other loads reads, however many bursts there are."""
    common = {"kind": "bus error", "channel": "R", "what": "load", "least": 1, "skips": 12}
    return [
        common | {"place": place, "response": response, "chances": chances}
        for response in bins.RESPONSES
        for place in bins.LOADS
        for chances in ({}, CROWD)
    ]


def port_errors(port: int) -> list[Scenario]:
    """Both responses on the beats of a further port, in a crowd and alone."""
    common = {"kind": "bus error", "channel": "R", "port": port}
    cases: list[Scenario] = [
        {"what": kind, "position": position, "chances": CROWD}
        for kind in bins.FURTHER_READERS
        for position in bins.POSITIONS
    ]
    cases += [
        {"what": kind, "least": 1, "most": 1, "skips": 4, "chances": SPARSE}
        for kind in bins.FURTHER_READERS
    ]
    return [common | case | {"response": r} for r in bins.RESPONSES for case in cases]


def random_errors(count: int, first: int) -> list[Scenario]:
    """Errors on any beats and responses of a frame."""
    jobs = []
    for seed in range(first, first + count):
        rng = random.Random(seed)
        chances = {channel: rng.choice([0.2, 0.5, 0.9]) for channel in AXI}
        channel, skips = rng.choice([("R", 800), ("R", 800), ("B", 30)])
        job = {"channel": channel, "skips": skips, "least": 1, "chances": chances}
        jobs.append({"kind": "bus error", "response": rng.choice([*bins.RESPONSES]), **job})
    return jobs


def other_errors() -> list[Scenario]:
    """Dead memory, unknown opcodes, addresses outside the banks, START while busy, registers."""
    slow = {"ar": 0.7, "r": 0.5, "w": 0.5}
    jobs: list[Scenario] = [{"kind": "watchdog", "after": n, "chances": slow} for n in (5, 900)]
    jobs += [
        {"kind": "illegal instruction", "index": index, "code": code, "chances": slow}
        for index, code in ((1, 0), (7, 12), (20, 14))
    ]
    missing, bank = 7 << OFFSET_BITS, lambda b, offset: b << OFFSET_BITS | offset
    jobs += [
        {"kind": "address range", "opcode": opcode, "field": field, "value": value, "where": where}
        for opcode, field, value, where in (
            ("LOAD_IMAGE", "destination", missing, missing),
            ("SOFTMAX", "destination", bank(5, 50), bank(5, 70)),
            ("LAYERNORM", "source", bank(0, 240), bank(0, 260)),
            ("STORE", "source", bank(0, 255), bank(0, 256)),
            ("DRAIN", "destination", missing, missing),
            # Banks that there are, but not for them.
            ("LOAD_WORDS", "destination", bank(1, 3), bank(1, 3)),
            ("MATMUL", "base", bank(3, 2), bank(3, 2)),
            ("DRAIN", "destination", bank(1, 63), bank(1, 63)),
            ("SOFTMAX", "source", bank(2, 0), bank(2, 0)),
            ("SOFTMAX", "destination", bank(6, 0), bank(6, 0)),
            ("LAYERNORM", "source", bank(4, 1), bank(4, 1)),
            ("LAYERNORM", "destination", bank(0, 0), bank(0, 0)),
            ("STORE", "source", bank(1, 0), bank(1, 0)),
        )
    ]
    jobs += [{"kind": "start while busy", "chances": slow}, {"kind": "registers", "chances": slow}]
    return jobs


def host_errors(ports: int) -> list[Scenario]:
    """What a host does wrong, and memory that is not what it was: a cause, nothing outside."""
    slow = {"ar": 0.7, "r": 0.5, "w": 0.5}
    jobs: list[Scenario] = [
        {"kind": "wrong image", "how": how} for how in ("zeros", "no begin", "magic", "build")
    ]
    jobs += [
        {"kind": "alignment", "name": name, "bit": bit}
        for name, bit in (("IMAGE", 11), ("INPUT", 4), ("OUTPUT", 0))
    ]
    jobs += [{"kind": "next bases", "after": after} for after in (0, 300, 1500)]
    places = [("LOAD_IMAGE", 0), ("STORE", 0), *(("LOAD_TILES", port) for port in range(ports))]
    places += [(opcode, 0) for opcode in ("LOAD_WORDS", "LOAD_LAYERNORM", "LOAD_TABLE")]
    jobs += [
        {"kind": "window", "opcode": opcode, "port": port, "short": short, "chances": slow}
        for opcode, port in places
        for short in (1, 16)
    ]
    # Exactly enough.
    exact = [("LOAD_IMAGE", 0), ("STORE", 0), ("LOAD_TILES", ports - 1)]
    jobs += [{"kind": "window", "opcode": opcode, "port": port} for opcode, port in exact]
    jobs += [{"kind": "fetch window", "bursts": bursts} for bursts in (1, 2)]
    jobs += [{"kind": "short program"}]
    return jobs + [{"kind": "top of memory", "name": n} for n in ("IMAGE", "OUTPUT", "FETCH")]


def damaged_instructions() -> list[Scenario]:
    """A wrong bit in every part of an instruction; an instruction in another's place."""
    places = [(1, 0), (2, 19), (3, 116), (5, 200), (7, 239), (8, 240), (9, 255), (20, 128)]
    jobs: list[Scenario] = [{"kind": "integrity", "index": i, "bit": bit} for i, bit in places]
    return jobs + [{"kind": "integrity", "index": index} for index in (3, 12)]


def register_accesses() -> list[Scenario]:
    """Writes and reads at once; all kinds of accesses with one channel at 1 %."""
    given: list[dict[str, float]] = [{}, dict.fromkeys(AXIL, 0.5), dict.fromkeys(AXIL, 0.1)]
    given += [{channel: 0.01} for channel in AXIL]
    jobs: list[Scenario] = [{"kind": "traffic", "chances": chances} for chances in given]
    return jobs + [{"kind": "registers", "chances": {channel: 0.01}} for channel in AXIL]


def resets() -> list[Scenario]:
    """Both resets in every phase."""
    return [
        {"kind": "reset", "how": how, "phase": phase, "chances": CROWD | {"b_delay": 150}}
        for how in bins.RESETS
        for phase in bins.PHASES
    ]


def random_resets(count: int, first: int) -> list[Scenario]:
    """Resets at random cycles."""
    jobs = []
    for seed in range(first, first + count):
        rng = random.Random(seed)
        chances = {channel: rng.choice([0.1, 0.5, 0.9]) for channel in AXI}
        how = rng.choice(bins.RESETS)
        jobs.append({"kind": "random reset", "how": how, "within": 6000, "chances": chances})
    return jobs


def sharp_resets(count: int) -> list[Scenario]:
    """Resets in moments of a few cycles, ``count`` of each kind."""
    # Requests wait for AR in the very cycle in which the masters begin to drain.
    early = {"kind": "random reset", "how": "soft", "within": 300, "chances": {"ar": 0.3}}
    met = {(job["how"], job["phase"]): job for job in resets()}
    # In the middle of a row: an engine that counts on from there would be out of step for ever.
    rows = [met["hard", phase] | {"within": 60} for phase in ("layernorm", "softmax")]
    return [early, *rows] * count


def small() -> list[Scenario]:
    """One of each kind: catches most faults of the hardware in seconds (``scripts/faults``)."""
    fetches = [job for job in bus_errors() if job["what"] == "fetch"]
    errors = {job["what"] + job.get("position", ""): job for job in bus_errors()}
    lonely = [job for job in lonely_errors() if job["response"] == "SLVERR"]
    met = {(job["how"], job["phase"]): job for job in resets()}
    jobs = [
        {"kind": "frame", "frames": 2},
        {"kind": "frame", "chances": CROWD},
        {"kind": "frame", "frames": 2, "chances": OVERRUN},
        {"kind": "frame", "chances": dict.fromkeys((*AXI, *AXIL), 0.3)},
        errors["weightsmiddle"],
        *fetches,
        errors["store"],
        *(job for job in lonely if "place" in job),
        *load_errors()[:8:2],
        *random_errors(4, 300),
        {"kind": "traffic", "chances": dict.fromkeys(AXIL, 0.5)},
        met["soft", "image load"],
        met["soft", "store"],
        met["soft", "softmax"],
        met["hard", "matmul"],
        *other_errors(),
        *host_errors(1),
        *damaged_instructions(),
        *({"kind": "random reset", "how": how, "within": 900} for how in ("hard", "soft") * 6),
    ]
    jobs += sharp_resets(9)
    return [job | {"ceiling": 30_000} for job in jobs]


def seeded(jobs: list[Scenario], first: int) -> list[Scenario]:
    """Every scenario with a seed of its own."""
    return [job | {"seed": first + index} for index, job in enumerate(jobs)]


@cache
def run(ports: int) -> dict[str, Any]:
    """All scenarios of the default run: one port has them all, two ports the mixed ones."""
    jobs = [*random_frames(4, 100), *random_resets(6, 200)]
    jobs += [*bus_errors(), *lonely_errors(), *random_errors(12, 300)]
    jobs += host_errors(ports)
    if ports == 1:
        jobs = [*frames(), *other_errors(), *register_accesses(), *resets(), *load_errors(), *jobs]
        jobs += [*damaged_instructions(), *sharp_resets(4)]
    else:
        jobs += [*other_errors()[:3], *resets()[::4]]
        jobs += [job for port in range(1, ports) for job in port_errors(port)]
    return run_bench(make_frame(ports), seeded(jobs, 1000 * ports), seed=ports)


def check(report: dict[str, Any], *kinds: str) -> None:
    results = [result for result in report["results"] if result["kind"] in kinds]
    assert results
    failures = [result for result in results if result["error"]]
    assert not failures, "\n".join(map(str, failures))


KINDS = [
    ("frame",),
    ("bus error",),
    ("reset", "random reset"),
    ("watchdog",),
    ("illegal instruction",),
    ("address range",),
    ("wrong image", "alignment", "next bases"),
    ("window", "fetch window", "short program", "top of memory"),
    ("integrity",),
    ("start while busy", "registers", "traffic"),
]


@pytest.mark.slow  # the others have all of it, but for some resets
def test_small() -> None:
    jobs = seeded(small(), 50)
    report = run_bench(make_frame(1), jobs, seed=3, stop=True)
    check(report, *(kind for kinds in KINDS for kind in kinds))
    assert len(report["results"]) == len(jobs)
    assert report["bins"][bins.OVERRUN]


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: kinds[0])
def test_one_port(kinds: tuple[str, ...]) -> None:
    check(run(1), *kinds)


@pytest.mark.parametrize("ports", [1, 2])
def test_every_bin_is_hit(ports: int) -> None:
    hits = run(ports)["bins"]
    missed = [name for name in bins.required(ports) if not hits.get(name)]
    assert not missed, missed


@pytest.mark.parametrize(
    "kinds", [*KINDS[:3], ("wrong image", "alignment"), ("window",)], ids=lambda kinds: kinds[0]
)
def test_two_ports(kinds: tuple[str, ...]) -> None:
    check(run(2), *kinds)


@pytest.mark.slow
@pytest.mark.parametrize("ports", [1, 2])
@pytest.mark.parametrize("first", [10_000, 20_000])
def test_more_seeds(ports: int, first: int) -> None:
    jobs = [*random_frames(40, first), *random_resets(60, first), *bus_errors(), *resets()]
    jobs += [*lonely_errors(), *random_errors(60, first)]
    report = run_bench(make_frame(ports), seeded(jobs, first), seed=first)
    check(report, *(kind for kinds in KINDS[:3] for kind in kinds))
