"""Offline stand-ins for clouds, for development and tests. Nothing of the library imports them; see docs/emulators.md."""
