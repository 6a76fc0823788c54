"""What is recorded: DataJoint tables and the pure rules about them. Importing this package opens no connection."""

from __future__ import annotations

import os

# DataJoint reads both at its import: a stray configuration file of another project must not leak in, and standard
# output belongs to the results of commands, not to log lines.
os.environ.setdefault("DJ_IGNORE_CONFIG_FILE", "true")
os.environ.setdefault("DJ_LOG_STREAM", "stderr")
