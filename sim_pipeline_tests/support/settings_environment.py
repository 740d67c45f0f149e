"""The environment without anybody's settings."""

import pytest

from sim_pipeline.config import Settings, variable_name


def clear_settings(patch: pytest.MonkeyPatch) -> None:
    """Take away every variable that is a setting, for as long as the patch lasts."""
    for field in Settings.model_fields:
        patch.delenv(variable_name(field), raising=False)
