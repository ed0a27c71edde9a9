"""Making a version again from what its lineage recorded, and comparing the two: code, data and packages as they were."""

from ekiben.rebuild.making import rebuild

__all__ = ["rebuild"]
