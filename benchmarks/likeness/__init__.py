"""Whether a pipeline behaves like Stable Diffusion in what makes that hard to quantize.

    python benchmarks/likeness [--prompts 32] [--weights step-*.safetensors pipeline]

Draws prompts in full precision and measures, while they are drawn, the mass on the start token, the
distribution of attention scores, outlier channels and tokens of everything that DGQ quantizes, how
far ranges move from step to step, and the axis that DGQ groups. Writes likeness.md, likeness.json
and pictures.
"""
