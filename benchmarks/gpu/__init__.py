"""All that only a GPU can tell, in one command of eight minutes.

    python benchmarks/gpu OUT [--rehearse] [--steps NAME ...]

Steps run in processes of their own and in the order of their worth, each until its time is up; what
they found is in OUT as soon as it is known. ``--rehearse`` runs all of it on a CPU with tiny sizes.
"""
