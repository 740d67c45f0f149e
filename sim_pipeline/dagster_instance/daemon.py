"""Starts `dagster-daemon` after two preparations.

- Removes models that LLM_MODELS_STR no longer names from unfinished backfills (`removed_models`).
- Freezes the objects of the imported modules. Python collects its oldest generation only after that
  generation has grown by a quarter. The modules make it so large that the garbage of the daemon's
  polls reaches 10 MB first. Frozen objects do not count.
"""

import gc

import dagster as dg
from dagster._daemon.cli import main

from sim_pipeline.config import load_settings
from sim_pipeline.dagster_instance import storage  # noqa: F401 - imported to be frozen
from sim_pipeline.dagster_instance.removed_models import leave_out_removed_models
from sim_pipeline.surroundings import secure_this_process

if __name__ == "__main__":
    secure_this_process()
    with dg.DagsterInstance.get() as instance:
        leave_out_removed_models(instance, load_settings().llm_models)
    gc.collect()
    gc.freeze()
    main()
