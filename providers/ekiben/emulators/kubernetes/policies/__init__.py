"""NetworkPolicies enforced on the cluster's node: what they let through, and who sees to it before a pod begins."""
