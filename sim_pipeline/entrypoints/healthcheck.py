"""Tells Docker or Kubernetes, by its exit status, whether the UI beside it answers.

What belongs here: one question to the UI. It runs every few seconds beside the service, so it
imports nothing but the standard library, and none of the settings' validation.
"""

import http.client
import os
import sys

# Where a UI in a container is reached that listens there or everywhere.
_HOSTS = ("127.0.0.1", "::1")
# Less than Docker and Kubernetes wait, for both together.
_ANSWER_SECONDS = 4.0


def main() -> int:
    """Ask the UI of this machine for /server_info; return 0 where it answers, else 1."""
    port = int(os.environ.get("UI_PORT") or "3000")
    path = f"{os.environ.get('UI_PATH_PREFIX', '')}/server_info"
    refusals = []
    for host in _HOSTS:
        try:
            status = _ask(host, port, path)
        except ConnectionError as error:
            refusals.append(f"{host}: {error}")
        except (OSError, http.client.HTTPException) as error:
            refusals.append(f"{host}: {error}")
            # What hangs here would do so there.
            break
        else:
            print(f"The UI on port {port} answers with status {status}")  # noqa: T201 - for `docker inspect`
            return 0 if status == http.client.OK else 1
    print(f"The UI on port {port} does not answer: {'; '.join(refusals)}")  # noqa: T201 - as above
    return 1


def _ask(host: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
