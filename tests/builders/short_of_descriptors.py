"""A process that has no more descriptors than these, in earnest: the kernel refuses the next one."""

import contextlib
import os
import resource


def free_descriptor():
    """The number that the next descriptor would have."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@contextlib.contextmanager
def descriptors_left(count):
    """In here so many descriptors are left, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        # Numbers that are free below others would be taken first: they are taken now.
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        while free_descriptor() < highest:
            held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free_descriptor() + count, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
