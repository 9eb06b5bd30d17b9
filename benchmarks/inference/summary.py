"""From the children's answers to the figures of the tables."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.inference.rows import BASES, Entrant

Answers = Mapping[Entrant, Sequence[Mapping[str, Any]]]
"""Answers of each row, one for each repeat."""


def summarise(answers: Answers, failures: Mapping[Entrant, str]) -> list[dict[str, Any]]:
    """All tables, one for each model and batch size, with ratios.

    Args:
        answers: answers of all rows, in order; some rows may have none yet.
        failures: rows that have failed, and why.

    Returns:
        For each table: model, batch size, and its rows as plain values for JSON.
    """
    tables = []
    for model in dict.fromkeys(entrant.model for entrant in answers):
        own = {e: a for e, a in answers.items() if e.model == model and (a or e in failures)}
        batches = dict.fromkeys(b for given in own.values() for a in given for b in a["batches"])
        for batch in batches:
            rows = [
                _names(entrant) | {"failed": failures[entrant]}
                if entrant in failures
                else row_of(entrant, given, batch)
                for entrant, given in own.items()
                if entrant in failures or any(batch in answer["batches"] for answer in given)
            ]
            tables.append({"model": model, "batch": int(batch), "rows": with_ratios(rows)})
    return tables


def row_of(entrant: Entrant, answers: Sequence[Mapping[str, Any]], batch: str) -> dict[str, Any]:
    """One row: all repeats together.

    Wall time is the least and the median over all calls. The time to compile is that of the slowest
    repeat: later ones find the code in torch's cache.
    """
    timed = [answer["batches"][batch] for answer in answers if batch in answer["batches"]]
    wall = [seconds for one in timed for seconds in one["wall_s"]]
    qualities = [answer["sqnr_db"] for answer in answers if "sqnr_db" in answer]
    return {
        **_names(entrant),
        "wall_min_s": min(wall),
        "wall_median_s": median(wall),
        "cpu_s": median(seconds for one in timed for seconds in one["cpu_s"]),
        "others_cores": others_cores(timed),
        "calls": len(wall),
        "compile_s": max(one["compile_s"] for one in timed),
        "compile_again_s": min(one["compile_s"] for one in timed) if len(timed) > 1 else None,
        "load_s": min(answer["load_s"] for answer in answers),
        "loading_peak_gib": max(answer["loading_peak_gib"] for answer in answers),
        "resident_gib": _number(max(answer["resident_gib"] for answer in answers)),
        "peak_gib": max(one["peak_gib"] for one in timed),
        "kernels": timed[0].get("kernels", {}),
        "each_kernel": timed[0].get("each_kernel", []),
        "traffic_gb": timed[0].get("traffic_gb"),
        "file_mb": answers[0]["file_mb"],
        "sqnr_db": qualities[0] if qualities else None,
        "execution": answers[0]["execution"],
    }


def others_cores(timed: Sequence[Mapping[str, Any]]) -> float:
    """Average number of cores that other processes kept busy during the calls."""
    return sum(sum(one["others_cpu_s"]) for one in timed) / sum(sum(one["wall_s"]) for one in timed)


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their speed relative to the rows of ``BASES``; None if there is none.

    Ratios are those of the least wall times in the same run.
    """
    return [
        {**row, "faster_than": {base: _ratio(rows, base, row) for base in BASES}} for row in rows
    ]


def _ratio(rows: Sequence[Mapping[str, Any]], base: str, row: Mapping[str, Any]) -> float | None:
    seconds = [other["wall_min_s"] for other in rows if other["row"] == base and _ran(other)]
    return seconds[0] / row["wall_min_s"] if seconds and _ran(row) else None


def _ran(row: Mapping[str, Any]) -> bool:
    return "failed" not in row


def _names(entrant: Entrant) -> dict[str, Any]:
    return {"row": entrant.row, "ckpt": entrant.ckpt or None, "title": entrant.title}


def _number(value: float) -> float | None:
    """Replace nan by None, as JSON has no nan."""
    return value if math.isfinite(value) else None
