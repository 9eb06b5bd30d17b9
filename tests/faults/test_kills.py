"""Killed in any phase, wherever samples wait, in one process or two: it resumes bit-identically."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.child import owner_of
from tests.faults.kills import PHASES, Bench, Kill, plan, was_killed


def test_the_table_has_every_phase_place_and_number_of_processes() -> None:
    rows = plan()
    assert len(rows) >= 50
    assert {row.phase for row in rows} == set(PHASES)
    assert {(row.place, row.processes) for row in rows} >= {
        *(("device", 1), ("disk", 1), ("device", 2), ("disk", 2)),
    }
    assert {row.rank for row in rows} == {0, 1}
    assert {row.in_memory for row in rows} == {False, True}


def test_every_phase_names_a_function() -> None:
    """The kills themselves are slow tests: a function that was renamed is to be noticed before."""
    functions = [function for function, _ in PHASES.values()]
    missing = [name for name in functions if not callable(getattr(*owner_of(name), None))]
    assert missing == []


@pytest.fixture(scope="module")
def bench(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Runs on two file systems, with temporary files on the other one."""
    on_disk = tmp_path_factory.mktemp("kills")
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as in_memory:
        bench = Bench(micro_folder, on_disk, Path(in_memory))
        yield bench
        bench.close()


@pytest.fixture(scope="module")
def whole(bench: Bench) -> dict[int, dict[str, bytes]]:
    """What uninterrupted runs leave, by number of processes."""
    results = {}
    for processes in (1, 2):
        name, row = f"whole-{processes}", Kill("learning", 1, "device", processes)
        assert bench.fit(name, row) == 0, bench.said
        results[processes] = bench.result(name, row)
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill", plan(), ids=lambda k: f"{k.phase}-{k.number}-{k.place}-{k.processes}-{k.rank}"
)
def test_a_killed_run_resumes_bit_identically(
    kill: Kill, bench: Bench, whole: dict[int, dict[str, bytes]], request: pytest.FixtureRequest
) -> None:
    name = request.node.name.partition("[")[2].replace(" ", "_").strip("]")
    status = bench.fit(name, kill, killed=True)
    assert was_killed(status, kill), (status, bench.said)
    assert bench.fit(name, kill, "--ckpt_path=last") == 0, bench.said
    assert bench.result(name, kill) == whole[kill.processes]
    assert bench.leftovers(name, kill) == []
