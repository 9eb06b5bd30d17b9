"""How fast a quantized UNet runs, beside torch, OpenVINO and NNCF in the same run.

    python benchmarks/inference [--quick] [--json FILE] [--markdown FILE]

Each row of the table runs in a process of its own; the rows take turns over the repeats, so that a
busy machine slows them alike. ``--quick`` measures the embedded model alone.
"""
