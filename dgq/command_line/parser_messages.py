"""Messages of jsonargparse about values that fit no type of a union, in one short sentence."""

import re

UNION = "Does not validate against any of the Union subtypes"
SUBTYPES = re.compile(r"Subtypes: \[(.*)\]$", re.MULTILINE)
GIVEN = re.compile(r"Given value: (?!NestedArg)(.*)\Z", re.DOTALL)
OTHER_ATTEMPTS = re.compile(r"\n *- [^\n]*")
COMMA = re.compile(r", (?![^\[]*\])")
"""A comma between types, rather than inside the brackets of one."""

PROBLEM = re.compile(
    r"^(?P<indent> *)- Problem with given class_path '(?P<path>[^']+)':\s*(?P<reason>.+?)\s*"
    r"(?=\n(?P=indent)- |\n *Given value type|\Z)",
    re.DOTALL | re.MULTILINE,
)
"""What is wrong with a class that was named and found."""

NAMES = {"NoneType": "null", "bool": "true or false"}


def in_short(message: str) -> str:
    """A message without the types that a value was tried against in vain; others are unchanged.

    Args:
        message: message of an error of the parser.
    """
    before, mark, after = message.partition(UNION)
    if not mark:
        return message
    key = OTHER_ATTEMPTS.sub("", before).rstrip(" -\n")
    problem = PROBLEM.search(after)
    if problem is not None:
        return f"{key} {problem['path']}: {in_short(problem['reason'])}".strip()
    types, given = SUBTYPES.search(after), GIVEN.search(after)
    if types is None:
        return message
    got = "" if given is None else f", got {given[1]}"
    return f"{key} expected {_expected(types[1])}{got}".strip()


def _expected(types: str) -> str:
    """Types as their ``repr`` in a list, in words."""
    short = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", types)
    return " or ".join(_in_words(name) for name in COMMA.split(short))


def _in_words(name: str) -> str:
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", name)
    return NAMES.get(name, name) if literal is None else literal[1]
