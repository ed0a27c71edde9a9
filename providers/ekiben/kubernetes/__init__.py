"""The provider `kubernetes`: any cluster, with an S3-compatible store and, where it has it, Knative Serving."""
