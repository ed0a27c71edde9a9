"""The Pulumi engine on any machine: finding or making its CLI, its environment, and the stack verbs."""
