import pytest
from http_process_rig import Rig


@pytest.fixture
async def rig():
    made = []

    async def make(count=1, **options):
        made.append(Rig(count, options))
        return await made[-1].start()

    yield make
    for one in made:
        await one.stop()


@pytest.fixture
async def host(rig):
    return await rig()
