"""`dagster-daemon`, prepared for this pipeline: models that are gone, and its memory.

Before the daemon works on unfinished backfills, models that LLM_MODELS_STR no longer names are left
out of them: see `removed_models`.

Python looks for cycles among the objects that have lived long once a quarter more of them has come.
Of the daemon's, nearly all belong to its modules; what its polls leave behind in cycles adds up to
that quarter in an hour or so, ten MB by then. What is frozen neither counts nor is looked at again.
"""

import gc

import dagster as dg
from dagster._daemon.cli import main

from sim_pipeline.config import load_settings
from sim_pipeline.dagster_instance import storage  # noqa: F401 - with all it imports, to be frozen
from sim_pipeline.dagster_instance.removed_models import leave_out_removed_models
from sim_pipeline.surroundings import secure_this_process

if __name__ == "__main__":
    secure_this_process()
    with dg.DagsterInstance.get() as instance:
        leave_out_removed_models(instance, load_settings().llm_models)
    gc.collect()
    gc.freeze()
    main()
