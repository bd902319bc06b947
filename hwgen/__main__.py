# SPDX-License-Identifier: Apache-2.0
"""``python -m hwgen`` is the command ``hwgen``."""

from __future__ import annotations

import sys

from hwgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
