"""`python -m trainloom`, the command of the same name."""

from __future__ import annotations

import sys

from trainloom import main

sys.exit(main())
