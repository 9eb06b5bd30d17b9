"""Studies of the embedded models, each a command that prints a table.

    python -m scenes.studies.likeness         # how closely a pipeline resembles Stable Diffusion
    python -m scenes.studies.trials           # which training settings bring it closer
    python -m scenes.studies.measuring_clip   # how well the embedded CLIP measures

Whether evaluation detects the damage of low bit widths needs no code here: `docs` has the commands.
"""
