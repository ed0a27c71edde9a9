"""`python -m tests.mlflow_server`: make the environment of MLflow, while other tests run."""

from __future__ import annotations

from tests.mlflow_server import python

if __name__ == "__main__":
    print(python())
