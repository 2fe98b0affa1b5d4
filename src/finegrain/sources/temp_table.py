"""Rows of any number in constant memory: a database on disk that vanishes with its connection."""

import sqlite3


def create() -> sqlite3.Connection:
    """An empty database, private to the caller, that keeps at most 1 MB of its pages in memory.

    SQLite makes its file in TMPDIR and unlinks it at once, so that a killed process leaves nothing behind.
    """
    database = sqlite3.connect("")  # no name means just that
    database.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
    database.execute("PRAGMA cache_size = -1000")
    database.execute("PRAGMA temp_store = FILE")  # sorting, too, spills to disk
    return database
