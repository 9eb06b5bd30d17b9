"""Studies of the embedded models, each a command that prints a table.

    python -m scenes.studies.likeness         # how like Stable Diffusion a pipeline behaves
    python -m scenes.studies.trials           # which settings of the training make it so
    python -m scenes.studies.measuring_clip   # how well the embedded CLIP measures

Whether evaluation sees the damage of few bits needs no code: `docs` names the commands.
"""
