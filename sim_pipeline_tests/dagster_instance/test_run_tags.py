"""Dagster's tags whose names the pipeline repeats, so that a command need not load Dagster."""

from dagster._core.storage import tags

from sim_pipeline.dagster_instance import run_tags


def test_tags_have_dagsters_names() -> None:
    assert run_tags.RANGE_START_TAG == tags.ASSET_PARTITION_RANGE_START_TAG
    assert run_tags.RANGE_END_TAG == tags.ASSET_PARTITION_RANGE_END_TAG
    assert run_tags.WILL_RETRY_TAG == tags.WILL_RETRY_TAG
