"""What every test shares."""

import sys
from pathlib import Path

# Builders that several folders of tests use.
for folder in ("engine", "compare"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
