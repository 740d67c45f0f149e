"""`dagster-webserver`, with all its options, behind the guard of `ui_guard`.

What the options do not say, the settings do: where the UI listens, and its path.
"""

import sys
from typing import Any

from dagster_webserver import cli
from starlette.types import ASGIApp

from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.dagster_instance.ui_guard import UiGuard
from sim_pipeline.surroundings import secure_this_process

# What makes the application, as the command's module calls it.
_MAKER = "create_app_from_workspace_process_context"


def put_guard_before_ui(settings: Settings) -> None:
    """Have Dagster's command serve its application behind the guard.

    Neither the command nor the application that it makes takes a middleware from outside. So the
    function that makes the application is replaced, in the module that calls it. The command and
    its options stay Dagster's, and nothing of Dagster sees a request before the guard does.
    """
    create_app = getattr(cli, _MAKER)

    def create_guarded_app(*arguments: Any, **options: Any) -> ASGIApp:
        return UiGuard(
            create_app(*arguments, **options),
            ui_host=settings.ui_host,
            allowed_hosts=settings.ui_allowed_hosts,
        )

    setattr(cli, _MAKER, create_guarded_app)


def main() -> int:
    """Serve until SIGINT or SIGTERM. Wrong settings are said, and make the exit status 2."""
    secure_this_process()
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    put_guard_before_ui(settings)
    # The prefix of variables is that of dagster-webserver's own command.
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
