"""Looking a model up on the hub, before anything is downloaded."""

from huggingface_hub import HfApi, try_to_load_from_cache

TIMEOUT_S = 10


def look_up(source: str, file: str) -> None:
    """Fail at once, rather than after minutes of retries, if a hub model is not available.

    Args:
        source: id of the model.
        file: file of the model; if it was downloaded before, the hub is not contacted.

    Raises:
        Exception: as raised by the hub's library: no network, model or permission, or an invalid
            id.
    """
    if not isinstance(try_to_load_from_cache(source, file), str):
        HfApi().model_info(source, timeout=TIMEOUT_S)
