import sqlite3

import pytest

from host.storage.database import Database
from host.storage.writer import Writer


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


@pytest.fixture
async def writer(tmp_path):
    """A writer over a database with the table `notes`, whose connection allows at most 200 pages.

    `statements` has what SQLite executed.
    """
    statements = []

    def connect():
        connection = sqlite3.connect(tmp_path / "notes.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA max_page_count = 200")
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT UNIQUE) STRICT")
        connection.set_trace_callback(statements.append)
        return connection

    started = Writer(connect)
    started.statements = statements
    await started.start()
    yield started
    await started.close()
