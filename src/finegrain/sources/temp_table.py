"""A temporary SQLite database on disk.

Kept instead of Python lists because the names and hashes of a million images then take constant memory.
"""

import sqlite3


def create() -> sqlite3.Connection:
    """Open an empty, private database that keeps at most 1 MB of its pages in memory.

    SQLite creates its file in TMPDIR and unlinks it at once, so that a killed process leaves nothing behind.
    """
    database = sqlite3.connect("")  # an empty name means a temporary file
    database.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
    database.execute("PRAGMA cache_size = -1000")
    database.execute("PRAGMA temp_store = FILE")  # sorting also spills to disk
    return database
