"""The folders of a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from schemas.binding import Directories


@dataclass(frozen=True)
class Folders:
    """Where this session reads data files, caches them and writes weights."""

    dataset_dir: Path
    dataset_cache_dir: Path
    model_save_dir: Path

    def chosen(self, directories: Directories) -> Folders:
        """The same with a table's own directories in place."""
        return Folders(
            Path(directories.dataset_dir) if directories.dataset_dir is not None else self.dataset_dir,
            Path(directories.dataset_cache_dir)
            if directories.dataset_cache_dir is not None
            else self.dataset_cache_dir,
            Path(directories.model_save_dir) if directories.model_save_dir is not None else self.model_save_dir,
        )
