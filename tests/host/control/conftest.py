import pytest
from control_rig import control_rig


@pytest.fixture
async def rig(tmp_path):
    async with control_rig(tmp_path) as made:
        yield made
