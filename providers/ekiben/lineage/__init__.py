"""What a model version was made from: data by digest, code by commit, the environment by version. Standard library only."""

from ekiben.lineage.data import snapshot
from ekiben.lineage.machine import environment
from ekiben.lineage.source import git_state

__all__ = ["environment", "git_state", "snapshot"]
