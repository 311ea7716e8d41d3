"""Whose trouble is it when a file cannot be opened or read: the file's, or the machine's?

The one speaks of what lies on the disk: it is gone, or something else lies in its place. The other says nothing of it:
no descriptors, no memory, no room, a disk that fails, a folder that is closed for now. Whoever verifies files must not
take the second for the first. The standard library alone is imported here: a worker that starts cold needs it before
it may see any other.
"""

from __future__ import annotations

import errno
from typing import Final

_OF_THE_FILE: Final = frozenset(
    {
        errno.ENOENT,  # it is gone
        errno.ENOTDIR,  # a folder on the way is none any more
        errno.ELOOP,  # it is a link, and none is followed
        errno.EISDIR,
        errno.ENXIO,  # a socket, or a device that nothing stands behind
        errno.ENODEV,
        errno.ENAMETOOLONG,  # nobody could have stored anything there
    }
)
"""Everything else may be another way at the next look, with the same file there."""
_SHORT: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EAGAIN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


def is_of_the_file(error: OSError) -> bool:
    """Whether an error tells of what lies on the disk; else the machine refused, and trying again may do."""
    return error.errno in _OF_THE_FILE


def is_shortage(error: BaseException) -> bool:
    """Whether the machine has too little of something, or fails: what was tried may well do later."""
    return isinstance(error, OSError) and error.errno in _SHORT
