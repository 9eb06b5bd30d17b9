"""All measurements that need a GPU, in one command of eight minutes.

    python benchmarks/gpu OUT [--rehearse] [--steps NAME ...]

Steps run in their own processes in order of importance, each until its time is up; results are in
OUT as soon as they are known. ``--rehearse`` runs all of it on a CPU with tiny sizes.
"""
