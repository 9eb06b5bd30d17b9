"""What the DataModule tells the user."""

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """Print a message once, for any number of processes."""
    print(text, flush=True)
