"""Starts `dagster-webserver` behind the guard of `ui_guard`.

All options of dagster-webserver work. The settings give the defaults of host, port and path prefix.
"""

import gc
import sys
from typing import Any

from dagster_webserver import cli
from starlette.types import ASGIApp

from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.dagster_instance.ui_guard import UiGuard
from sim_pipeline.surroundings import secure_this_process

# Objects created between two collections of garbage; Python's default is 700. The UI's page of an
# asset creates several for each partition, and the collections took half of that time.
_OBJECTS_PER_COLLECTION = 100_000
# The function in the command's module that creates the application.
_APP_FACTORY = "create_app_from_workspace_process_context"


def put_guard_before_ui(settings: Settings) -> None:
    """Make Dagster's command serve its application behind the guard.

    Neither the command nor its application accepts a middleware. So this replaces the function that
    creates the application, in the module that calls it. The guard then sees each request before
    Dagster does.
    """
    create_app = getattr(cli, _APP_FACTORY)

    def create_guarded_app(*arguments: Any, **options: Any) -> ASGIApp:
        return UiGuard(
            create_app(*arguments, **options),
            ui_host=settings.ui_host,
            allowed_hosts=settings.ui_allowed_hosts,
        )

    setattr(cli, _APP_FACTORY, create_guarded_app)


def main() -> int:
    """Serve the UI until SIGINT or SIGTERM.

    Returns:
        The exit status: 2 if the settings are invalid, after a message that names them.
    """
    secure_this_process()
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    put_guard_before_ui(settings)
    # The imported modules stay, so no collection needs to look at them.
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    # dagster-webserver's own command has the same prefix of environment variables.
    cli.cli(
        auto_envvar_prefix="DAGSTER_WEBSERVER",
        default_map={
            "host": settings.ui_host,
            "port": settings.ui_port,
            "path_prefix": settings.ui_path_prefix,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
