"""Comparison of recipes and bits: calibrates, measures and tabulates all of them, and their parts.

    python benchmarks/ablation [--quick] [--full] [--stages main components ...]

Each cell of a table is a finished run folder and a line of cells.jsonl, both in outputs/ablation,
so a killed command resumes where it stopped. Tables are written after each cell, next to the runs;
once all cells are measured, they go into docs/reference/results.md and results.json, and between
the marks in README.md.
"""
