"""How fast a quantized UNet runs, compared with torch, OpenVINO and NNCF in the same run.

    python benchmarks/inference [--quick] [--json FILE] [--markdown FILE]

Each row of the table runs in its own process; the rows take turns over the repeats, so that a busy
machine slows them alike. ``--quick`` measures only the embedded model.
"""
