import pytest
from supply_wheels import Acme


@pytest.fixture
def acme():
    return Acme()
