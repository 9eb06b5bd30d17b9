"""The command ``python -m dgq``: one module for each subcommand.

A subcommand's module has ``NAME``, ``SUMMARY``, ``add_arguments(parser)`` and ``run(arguments)``,
and is listed in ``main.SUBCOMMANDS``.
"""
