"""Targets: the units of reconstruction, and the order in which a UNet runs them."""

from dgq.targets.blocks import Block, find_blocks
from dgq.targets.network import NETWORK, Network
from dgq.targets.order import execution_order
from dgq.targets.target import Target
from dgq.targets.time_path import TimePath, find_time_path

__all__ = [
    "NETWORK",
    "Block",
    "Network",
    "Target",
    "TimePath",
    "execution_order",
    "find_blocks",
    "find_time_path",
]
