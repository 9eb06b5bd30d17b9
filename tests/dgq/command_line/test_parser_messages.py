"""Values that fit no type are named in one short sentence, whatever the parser tried."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from dgq.command_line.parser_messages import in_short


def message(arguments: list[str]) -> str:
    """What the parser says, in short."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--height", type=int | None)
    parser.add_argument("--seed", type=bool | int)
    parser.add_argument("--logger", type=Logger | bool | None)
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(arguments)
    return in_short(str(caught.value))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--height 3.5", 'Parser key "height": expected int or null, got 3.5'),
        ("--seed x", 'Parser key "seed": expected true or false or int, got x'),
        ("--logger 7", 'Parser key "logger": expected Logger or true or false or null, got 7'),
        (
            "--logger CSVLogger",
            'Parser key "logger": lightning.pytorch.loggers.CSVLogger: the following arguments are '
            "required: save_dir",
        ),
        (
            "--callbacks LearningRateMonitor --callbacks.color 3",
            'Parser key "callbacks": lightning.pytorch.callbacks.LearningRateMonitor: Option '
            "'color' is not accepted",
        ),
        (
            "--callbacks LearningRateMonitor --callbacks.logging_interval never",
            'Parser key "callbacks": lightning.pytorch.callbacks.LearningRateMonitor: Parser key '
            "\"logging_interval\": expected 'step', 'epoch' or null",
        ),
    ],
)
def test_a_value_of_no_type_is_one_short_sentence(arguments: str, expected: str) -> None:
    assert message(arguments.split()) == expected


@pytest.mark.parametrize("text", ["", "no such model", "Does not validate", "a\n- b"])
def test_other_messages_are_unchanged(text: str) -> None:
    assert in_short(text) == text
