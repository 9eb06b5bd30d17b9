"""A checksum inside an image file, of its bytes and of the image's identity.

It is a text chunk of a PNG or a comment of a JPEG, which other programs ignore. An image that was
swapped, redrawn by hand or damaged no longer matches it.
"""

import hashlib
import zlib

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"
KEY = b"dgq\0"
DIGITS = 64
END = 12
"""Number of bytes of the chunk that ends a PNG."""

PNG_TAG = 12 + len(KEY) + DIGITS
JPEG_TAG = 4 + len(KEY) + DIGITS


def tagged(content: bytes, which: str) -> bytes:
    """Add a tag to an image file.

    Args:
        content: a PNG, or a JPEG with its JFIF header, as PIL writes them.
        which: everything that determines the image.
    """
    text = KEY + hashlib.sha256(which.encode() + b"\n" + content).hexdigest().encode()
    if content.startswith(PNG):
        chunk = b"tEXt" + text
        length, checksum = len(text).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
        return content[:-END] + length + chunk + checksum + content[-END:]
    place = _after_header(content)
    return (
        content[:place] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + content[place:]
    )


def is_intact(content: bytes, which: str) -> bool:
    """Whether a file is exactly what ``tagged`` returned for this image."""
    if content.startswith(PNG):
        bare = content[: -END - PNG_TAG] + content[-END:]
    elif content.startswith(JPEG):
        place = _after_header(content)
        bare = content[:place] + content[place + JPEG_TAG :]
    else:
        return False
    return tagged(bare, which) == content


def _after_header(content: bytes) -> int:
    """Where the first segment of a JPEG ends."""
    return 4 + int.from_bytes(content[4:6], "big")
