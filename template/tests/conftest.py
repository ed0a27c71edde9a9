"""What all tests share."""

from __future__ import annotations

import os

# Analytics and update checks of what we call have no place in a test.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("PULUMI_SKIP_UPDATE_CHECK", "true")
