"""A small ingress for Knative: KIngress objects in, requests by host and path out to the revisions' pods."""
