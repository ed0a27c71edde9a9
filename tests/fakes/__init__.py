"""Small stand-ins at the HTTP edge, so that the real client code runs."""
