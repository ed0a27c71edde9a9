"""The stand-in for `pulumi-resource-kubernetes`: every kind that an API server has, by server-side apply."""
