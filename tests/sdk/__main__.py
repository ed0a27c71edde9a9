"""`python -m tests.sdk`: make the environment of the SageMaker SDK, while other tests run."""

from __future__ import annotations

from tests.sdk import python

if __name__ == "__main__":
    print(python())
