"""Tells Docker, by its exit status, whether the service in this container answers.

What belongs here: one question to the UI. It runs every few seconds beside the service, so it
imports nothing but the standard library, and none of the settings' validation.
"""

import http.client
import os
import sys

_ANSWER_SECONDS = 4.0


def main() -> int:
    """Ask the UI of this machine for /server_info; return 0 where it answers, else 1."""
    # Where the UI listens besides is nothing to this: in a container it listens everywhere.
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("UI_PORT") or "3000"), timeout=_ANSWER_SECONDS
    )
    try:
        connection.request("GET", "/server_info")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"The UI on port {connection.port} does not answer: {error}")  # noqa: T201 - for `docker inspect`
        return 1
    finally:
        connection.close()
    print(f"The UI on port {connection.port} answers with status {status}")  # noqa: T201 - as above
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
