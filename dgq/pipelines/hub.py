"""Looking a model up on the hub, before anything is downloaded."""

from huggingface_hub import HfApi, try_to_load_from_cache

TIMEOUT_S = 10


def look_up(source: str, file: str) -> None:
    """Fail at once, rather than after minutes of retries, if a hub model cannot be had.

    Args:
        source: id of the model.
        file: of the model; where it was downloaded before, nobody is asked.

    Raises:
        Exception: as the hub's library raises them: no network, model or permission, or an id that
            is none.
    """
    if not isinstance(try_to_load_from_cache(source, file), str):
        HfApi().model_info(source, timeout=TIMEOUT_S)
