"""The environment image of a bento as one layer: what its lock pins, and the server, in a folder of their own beside Python.

For registries of one's own: it is made without Docker, of any base image that has the Python that the service wants. What a
service runs while its image is built needs a container, and is refused. The context is a zip file that is the same bytes for the
same environment; its SHA-256 is the image's tag.
"""

from __future__ import annotations

import json

from ekiben.errors import SpecError
from ekiben.packing.archive import Bundle
from ekiben.packing.image import (
    LOCK,
    LOCK_VARIABLE,
    OWN_LOCK,
    PORT,
    USER,
    VARIABLES,
    environment_of,
    lock_digest,
    written,
)
from ekiben.packing.source import image_library

__all__ = ["DESCRIPTION", "LOCK", "OWN_LOCK", "SITE", "USER", "flat_image"]

DESCRIPTION = "image.json"
SITE = "/opt/ekiben/site"


def flat_image(template: Bundle, base: str) -> Bundle:
    """The context of the image for a bento's template on the image `base`, in which {version} stands for the service's Python.

    Raises SpecError for what a service's image asks beyond packages of Python.
    """
    environment = environment_of(template)
    if asked := [*environment.commands, *environment.after]:
        raise SpecError(
            f"The service's image runs {asked[0]!r} while it is built, and images for a cluster are made without running anything: "
            "put what it needs into the base image, and name that with `pulumi config set ekiben:pythonImage IMAGE`."
        )
    told = {
        "base": base.replace("{version}", environment.python),
        "python": environment.python,
        # Not every lock names what its packages need.
        "needs": True,
        "variables": {
            **{name: value for name, value in VARIABLES.items() if not name.startswith("AWS_")},
            LOCK_VARIABLE: lock_digest(environment.lock),
            "PYTHONPATH": SITE,
        },
        "user": f"{USER}:{USER}",
        "entrypoint": ["python3", "-P", "-m", "ekiben.cli"],
        "command": ["serve"],
        "port": PORT,
    }
    return written(
        {
            DESCRIPTION: json.dumps(told, sort_keys=True).encode(),
            LOCK: environment.lock.encode(),
            OWN_LOCK: environment.own_lock.encode(),
            **image_library(),
        }
    )
