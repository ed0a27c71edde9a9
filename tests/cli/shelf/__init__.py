"""A third party's provider, found by its entry point: everything in memory. What the command line sees is the contract."""

from ekiben.features import Feature, Support

SUPPORT = Support(provider="shelf", features=dict.fromkeys(Feature, True))
