"""The health check of a container: one request to the UI, with the result as exit status.

It runs every few seconds beside the service, so it imports the standard library only and does not
validate the settings.
"""

import http.client
import os
import sys

# The UI in a container listens on one of these addresses or on all.
_HOSTS = ("127.0.0.1", "::1")
# Shorter than the probe timeouts of Docker and Kubernetes.
_ANSWER_SECONDS = 4.0


def main() -> int:
    """Request /server_info from the UI of this machine; return 0 on status 200, otherwise 1."""
    port = int(os.environ.get("UI_PORT") or "3000")
    path = f"{os.environ.get('UI_PATH_PREFIX', '')}/server_info"
    errors = []
    for host in _HOSTS:
        try:
            status = _request(host, port, path)
        except ConnectionError as error:
            errors.append(f"{host}: {error}")
        except (OSError, http.client.HTTPException) as error:
            errors.append(f"{host}: {error}")
            # A UI that hangs here also hangs on the other address.
            break
        else:
            print(f"The UI on port {port} answers with status {status}")  # noqa: T201 - for `docker inspect`
            return 0 if status == http.client.OK else 1
    print(f"The UI on port {port} does not answer: {'; '.join(errors)}")  # noqa: T201 - as above
    return 1


def _request(host: str, port: int, path: str) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
