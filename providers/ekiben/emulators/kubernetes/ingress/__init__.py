"""A small ingress: KIngress objects and HTTPRoutes in, requests by host and path out to the revisions' pods."""
