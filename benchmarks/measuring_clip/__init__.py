"""How well the embedded CLIP measures: retrieval, single attributes, FID along a training.

    python benchmarks/measuring_clip --snapshots outputs/scenes/diffusion [--check]

Pictures are renders of held-out captions. Writes measuring_clip.md and .json and, with
snapshots of the UNet, measuring_clip.png. Images of snapshots are kept: the same command goes on
from where it was interrupted.
"""
