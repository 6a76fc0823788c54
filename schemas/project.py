"""The identity of a project, compared with that of its store on connecting."""

from __future__ import annotations

import datajoint as dj

from .schema import Connected, schema

VERSION = 5  # of the tables; raised when a definition changes
GROWN_SINCE = 1  # the oldest version from which tables were only added


@schema
class Project(Connected, dj.Manual):
    """One row: the id that the SQL side and the store share, and the version of the tables."""

    definition = """
    # The identity of this project
    project_key=1      : int16
    ---
    project_id         : char(32)
    tables_version     : int16
    """
