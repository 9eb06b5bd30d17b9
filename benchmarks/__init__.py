"""Benchmarks of DGQ's costs and gains, run as scripts."""
