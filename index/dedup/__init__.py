"""Near-duplicate removal: in memory (`deduplicate`), or over files of any size (`deduplicate_files`)."""

from nearhash.index.dedup.files import FileOptions, deduplicate_files
from nearhash.index.dedup.groups import Groups
from nearhash.index.dedup.memory import deduplicate
from nearhash.index.dedup.settings import Settings

__all__ = ["FileOptions", "Groups", "Settings", "deduplicate", "deduplicate_files"]
