"""``python -m dgq card``: the model card of a quantized model."""

import argparse
from pathlib import Path

from dgq.command_line.console import add_path, print_line
from dgq.errors import DGQError
from dgq.hub.model_card import model_card
from dgq.hub.names import publishable
from dgq.hub.publishing import CARD_FILE
from dgq.pipelines.files import INDEX
from dgq.storage.checkpoint import find_model
from dgq.storage.files import exists, written_beside

NAME = "card"
SUMMARY = "Print or write the model card of a quantized model, from what was measured."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add_path(parser)
    parser.add_argument(
        "--base_model",
        "--base-model",
        metavar="ID",
        help="hub id of the pipeline that the model was made from; by default the one that the "
        "model names, if that is an id",
    )
    parser.add_argument(
        "--repo_id",
        "--repo-id",
        metavar="ID",
        help="hub id under which the model will be published, for the example code in the card",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {CARD_FILE} beside the weights"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help=f"with --write: replace an existing {CARD_FILE}"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print or write the card.

    Raises:
        DGQError: if the model is damaged, an id is invalid, or a card already exists.
    """
    if arguments.overwrite and not arguments.write:
        raise DGQError("--overwrite replaces a card that is written: give --write too")
    folder = find_model(arguments.path).folder
    is_pipeline = (arguments.path / INDEX).is_file()
    file = (arguments.path if is_pipeline else folder) / CARD_FILE
    if arguments.write and exists(file) and not arguments.overwrite:
        raise DGQError(f"{file} exists: --overwrite replaces it")
    text = model_card(arguments.path, arguments.base_model, arguments.repo_id)
    if not arguments.write:
        print(text, end="")
        return
    with written_beside(file) as beside:
        beside.write_text(text, encoding="utf-8")
    print_line(f"written: {file}")
    note_paths(arguments.path)


def note_paths(path: Path) -> None:
    """Print a note if the description beside a card names a path on this machine."""
    files = find_model(path)
    pipeline = files.manifest().pipeline
    if pipeline and not publishable(pipeline):
        print_line(
            f"note: {files.config_file} names {pipeline}, a place on this machine: publish with "
            "unet.push_to_hub or a copy by unet.save_pretrained, which leave it out"
        )
