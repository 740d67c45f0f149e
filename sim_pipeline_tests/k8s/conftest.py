"""Fixtures: the manifests of each overlay, with no component, with PgBouncer and with all."""

from functools import cache

import pytest

from sim_pipeline_tests.k8s.rendering import Manifest, render

# In the order of docs/operations.md.
COMPONENTS = ("pgbouncer", "metrics", "private-registry", "placement")
VARIANTS = {
    "local": ("local",),
    "local with pgbouncer": ("local", "pgbouncer"),
    "production": ("production",),
    "production with pgbouncer": ("production", "pgbouncer"),
    "local with all": ("local", *COMPONENTS),
    "production with all": ("production", *COMPONENTS),
}


@cache
def rendered(variant: str) -> list[Manifest]:
    """Render a variant, once per session. Do not change the result."""
    return render(*VARIANTS[variant])


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """The name of an overlay and its components."""
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
