"""A Kubernetes of one node on this machine, real in all its parts."""
