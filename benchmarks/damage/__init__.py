"""Which bits damage becomes visible at, metric by metric: rounding to nearest, beyond the noise.

    python benchmarks/damage --num-images 512 --rivals outputs/w4a6 outputs/w4a6-variant

Calibrates the rtn recipes into the runs of outputs/, draws and measures them
with evaluate.py, leaves out what is finished already, and compares every change with what it takes
to be no chance: full precision with other seeds, renders against renders, the prompts drawn again.
Writes damage.md, damage.json and damage.png into docs/explanation/embedded-model/.
"""
