"""What makes the embedded model more like Stable Diffusion: short trainings, few changes each.

    python benchmarks/trials [--trials NAME ...] [--steps 600]

Trains a UNet anew for each trial on the pictures and text states of the shipped model, measures how
like Stable Diffusion it behaves and how well it draws, leaves out what is finished already, and
writes trials.md and trials.json into docs/explanation/embedded-model/.
"""
