"""One run of the command: makes parts, lets rows take turns, writes figures as they come."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.inference.children import ask, stop_children
from benchmarks.inference.machine import machine
from benchmarks.inference.request import Options, Request
from benchmarks.inference.rows import ROWS, Entrant, turns
from benchmarks.inference.subjects import OF_CKPT, Subject
from benchmarks.inference.summary import summarise
from benchmarks.inference.table import markdown, print_tables
from dgq.errors import DGQError
from dgq.storage.files import write_json, written_beside


class Run:
    """The subjects of a run, and the results so far.

    Args:
        command: the command as typed.
        options: options for children.
        subjects: subjects by name.
        entrants: the rows, in the tables' order.
        batches: batch sizes for each subject.
        counts: number of processes of each row, and of rows that load and compile side by side.
        notes: notes on what was skipped.
        files: files for JSON and Markdown, if requested.
    """

    def __init__(
        self,
        command: str,
        options: Options,
        subjects: Mapping[str, Subject],
        entrants: Sequence[Entrant],
        batches: Mapping[str, Sequence[int]],
        counts: tuple[int, int],
        notes: Sequence[str],
        files: tuple[Path | None, Path | None],
    ) -> None:
        self.command = command
        self.options = options
        self.subjects = subjects
        self.entrants = entrants
        self.batches = batches
        self.repeats, self.jobs = counts
        self.notes = notes
        self.files = files
        self.answers: dict[Entrant, list[dict[str, Any]]] = {entrant: [] for entrant in entrants}
        self.failures: dict[Entrant, str] = {}
        self.writing = Lock()

    def run(self, work: Path) -> None:
        """Make the parts that are missing in the cache, and let the rows take turns.

        A row fails if its part cannot be made; failed rows are not run again.
        """
        if self.jobs > 1 and not self.options.turns:
            self.options = replace(self.options, turns=str(work / "turns"))
        missing = self.missing_parts()
        requests = [
            (entrant, request)
            for repeat, entrant in turns(self.entrants, self.repeats)
            for request in self._requests(entrant, repeat)
        ]
        with progress() as bar, ThreadPoolExecutor(self.jobs) as pool:
            task = bar.add_task("", total=len(missing) + len(requests))

            def make(request: Request, before: Sequence[Future[None]]) -> None:
                wait(before)  # it may be made from them
                bar.update(task, description=f"making {request.model} {request.part}")
                self._make(request, missing[request], work)
                bar.advance(task)

            def measure(entrant: Entrant, request: Request) -> None:
                wait([made[part] for part, users in missing.items() if entrant in users])
                bar.update(task, description=f"{entrant.model}, {entrant.title}")
                if entrant not in self.failures:
                    self._measure(entrant, request, work)
                bar.advance(task)

            made: dict[Request, Future[None]] = {}
            try:
                for part in missing:
                    made[part] = pool.submit(make, part, list(made.values()))
                for measured in [pool.submit(measure, *one) for one in requests]:
                    measured.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_children()
                raise

    def _make(self, request: Request, users: Sequence[Entrant], work: Path) -> None:
        try:
            ask(request, self.options, work)
        except DGQError as error:
            self.failures |= dict.fromkeys(users, f"{request.part}: {error}")

    def missing_parts(self) -> dict[Request, list[Entrant]]:
        """The parts to make, in order, and the rows that need them."""
        missing: dict[Request, list[Entrant]] = {}
        for entrant in self.entrants:
            subject = self.subjects[entrant.model]
            for name in (*subject.parts, *ROWS[entrant.row].parts):
                part = subject.part(name, entrant.ckpt)
                if part is not None and not part.is_ready:
                    of_ckpt = entrant.ckpt if name in OF_CKPT else ""
                    request = Request(entrant.model, part=name, ckpt=of_ckpt)
                    missing.setdefault(request, []).append(entrant)
        return missing

    def _requests(self, entrant: Entrant, repeat: int) -> list[Request]:
        """Requests to separate processes: one for all batch sizes, or side by side one for each."""
        batches = self.batches[entrant.model]
        quality = repeat == 0 and entrant.model == "embedded"
        whole = Request(
            entrant.model, row=entrant.row, ckpt=entrant.ckpt, batches=batches, quality=quality
        )
        if self.jobs == 1:
            return [whole]
        first = batches[0]
        return [replace(whole, batches=(b,), quality=quality and b == first) for b in batches]

    def _measure(self, entrant: Entrant, request: Request, work: Path) -> None:
        try:
            answer = ask(request, self.options, work)
        except DGQError as error:
            self.failures[entrant] = str(error)
        else:
            self.answers[entrant].append(answer)
        with self.writing:
            self.write()

    def figures(self) -> dict[str, Any]:
        """All results so far, as plain values for JSON."""
        return {
            "command": self.command,
            "machine": machine(),
            "threads": self.options.threads,
            "repeats": self.repeats,
            "jobs": self.jobs,
            "repeats_done": self._rounds(),
            "titles": {name: subject.title for name, subject in self.subjects.items()},
            "notes": list(self.notes),
            "tables": summarise(self.answers, self.failures),
        }

    def _rounds(self) -> int:
        """How often all rows have had their turn, apart from failed ones."""
        done = [
            len(answers) // len(self._requests(entrant, 0))
            for entrant, answers in self.answers.items()
            if entrant not in self.failures
        ]
        return min(done, default=0)

    def write(self) -> None:
        """Write the files that were requested."""
        to_json, to_markdown = self.files
        if to_json is not None:
            write_json(to_json, self.figures())
        if to_markdown is not None:
            with written_beside(to_markdown) as beside:
                beside.write_text(markdown(self.figures()))

    def report(self, console: Console) -> None:
        """Write, and print the tables."""
        self.write()
        print_tables(self.figures(), console)


def progress() -> Progress:
    """A progress bar on stderr that says what is being done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
