import resource
import subprocess
import sys

import pytest

from host.observe.descriptors import ENOUGH, RESERVE, Descriptors


@pytest.mark.parametrize(
    ("limit", "wanted", "connections"),
    [
        (65_536, 1000, 1000),
        (1000 + RESERVE, 1000, 1000),
        (1024, 1000, 512),
        (600, 1000, 150),
        (256, 1000, 64),
        (64, 1000, 16),
        (256, 8, 8),
    ],
)
def test_connections_get_what_the_reserve_leaves_and_a_quarter_at_least(limit, wanted, connections):
    shares = Descriptors.share_out(limit, wanted)
    assert shares.connections == connections
    assert connections < shares.ceiling < limit
    assert bool(shares.scarce) == (connections < wanted)


def test_what_is_too_little_says_how_much_is_enough():
    assert f"to {1000 + RESERVE}" in Descriptors.share_out(256, 1000).scarce


@pytest.mark.parametrize(
    ("soft", "hard", "raised"), [(128, 256, 256), (256, 256, 256), (128, ENOUGH + 1, ENOUGH), (64, "same", "same")]
)
def test_the_soft_limit_is_raised_as_far_as_it_may_be_and_is_of_use(soft, hard, raised):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == "same":
        hard, raised = most, min(most, ENOUGH)
    if hard > most:
        pytest.skip(f"this machine allows {most} descriptors")
    script = (
        "import resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "from host.observe.descriptors import raise_limit; "
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(raised), str(raised), str(hard)]
