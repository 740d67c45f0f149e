"""The manifests of each overlay, with PgBouncer and without."""

from functools import cache

import pytest

from sim_pipeline_tests.k8s.rendering import Manifest, render

VARIANTS = {
    "local": ("local",),
    "local with pgbouncer": ("local", "pgbouncer"),
    "production": ("production",),
    "production with pgbouncer": ("production", "pgbouncer"),
}


@cache
def rendered(variant: str) -> list[Manifest]:
    """Render a variant once in a session; nobody changes what it returns."""
    return render(*VARIANTS[variant])


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """Name an overlay, and the components it is rendered with."""
    name: str = request.param
    return name


@pytest.fixture
def manifests(variant: str) -> list[Manifest]:
    return rendered(variant)


@pytest.fixture
def local() -> list[Manifest]:
    return rendered("local")


@pytest.fixture
def production() -> list[Manifest]:
    return rendered("production")
