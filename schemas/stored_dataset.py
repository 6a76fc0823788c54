"""Arrays that were saved under a name: which content, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datajoint as dj

from .errors import InvalidRow
from .hashing import content_md5, plain
from .keys import Keys
from .schema import Connected, schema
from .text_column import check_text

LENGTHS = {"name": 255, "version": 64, "description": 2047}


@schema
class StoredDataset(Connected, dj.Manual):
    """A dataset in the store. Its key is the md5 of name, version and content; description and tags are not part of
    it."""

    definition = """
    # A dataset in the store
    stored_dataset_md5_hash    : char(32)      # md5 of name, version and content
    ---
    stored_dataset_name        : varchar(255)
    stored_dataset_version     : varchar(64)   # empty where none was given
    stored_dataset_description : varchar(2047)
    stored_dataset_tags        : json          # name to value, for people and queries
    stored_dataset_sha256      : char(64)      # of the object in the store
    stored_dataset_size        : int64         # bytes
    stored_dataset_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    INDEX (stored_dataset_name)
    """

    def insert_dataset(
        self, sha256: str, size: int, *, name: str, version: str, description: str, tags: Mapping[str, Any]
    ) -> Keys:
        """Record an object of the store as a dataset; one that is there already is left as it is.

        Returns
        -------
        Keys
            The one key; ``.new`` holds it if it was not there before.

        Raises
        ------
        InvalidRow
            If a text is too long or a tag cannot be stored.
        """
        texts = {"name": name, "version": version, "description": description}
        for column, text in texts.items():
            check_text(column, text, LENGTHS[column])
        if not name:
            raise InvalidRow("name is empty; give the dataset a name")
        key = {
            "stored_dataset_md5_hash": content_md5(
                {"table": "stored_dataset", "fields": {"name": name, "version": version, "sha256": sha256}}
            )
        }
        if self & key:
            return Keys([key])
        row = {
            **key,
            **{f"stored_dataset_{column}": text for column, text in texts.items()},
            "stored_dataset_tags": plain(dict(tags), "tags"),
            "stored_dataset_sha256": sha256,
            "stored_dataset_size": size,
        }
        self.insert1(row, skip_duplicates=True)
        return Keys([key], [key])
