import pytest
from registry_rig import registry_rig


@pytest.fixture
async def rig(tmp_path):
    async with registry_rig(tmp_path) as made:
        yield made
