# The image simulation-service. `make docker-build` builds it. docs/image.md says how to run it and
# how to build it behind a private package index.
#
# It has no `# syntax=` line and no apt-get, so that a build fetches only the base image and wheels.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
# A separate pip installs the packages, so that the image's environment has no pip.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
COPY locks/k8s.txt /tmp/locks/
# Wheels only: nothing is compiled and no package runs build code. pip's configuration and CA file may
# contain passwords, so they are secrets of this step and are in no layer. pip ignores PIP_CONFIG_FILE
# if the file does not exist.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && PIP_CONFIG_FILE=/run/secrets/pip.conf \
    /opt/pip/bin/pip --python /opt/venv/bin/python --no-cache-dir --disable-pip-version-check \
      install --require-hashes --only-binary :all: -r /tmp/locks/k8s.txt \
    # 60 MB that the pipeline does not use.
    && rm -rf /opt/venv/lib/python3*/site-packages/pandas/tests \
      /opt/venv/lib/python3*/site-packages/pyarrow/tests \
      /opt/venv/lib/python3*/site-packages/pyarrow/include

FROM ${PYTHON_IMAGE} AS code
COPY pyproject.toml workspace.yaml dagster.yaml /app/
COPY migrations /app/migrations
COPY sim_pipeline /app/sim_pipeline
# A read-only file system has no place for bytecode later. Hashes, because file times are arbitrary.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE}
# Remove setuid bits: without capabilities these programs would fail anyway.
RUN groupadd --gid 10001 sim_pipeline \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
      --home-dir /var/lib/sim_pipeline --shell /usr/sbin/nologin sim_pipeline \
    && install --directory --owner=10001 --group=10001 /var/lib/sim_pipeline \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /app /app
# PYTHONSAFEPATH: import nothing from the working directory, which is writable.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Holds state such as run output and the log. Only this directory and /tmp are written to.
WORKDIR /var/lib/sim_pipeline
USER 10001:10001
EXPOSE 3000
# Before the UI answers, the service migrates and starts Dagster. The first run comes after that.
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=4 \
    CMD ["python", "-m", "sim_pipeline.entrypoints.healthcheck"]
# SIGTERM, which Docker sends by default, stops every command cleanly. Python is process 1 and reaps
# orphans itself, see `Children.watch`.
CMD ["python", "-m", "sim_pipeline", "run", "--ui-host", "0.0.0.0"]

ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="simulation-service" \
      org.opencontainers.image.description="Simulates LLM serving metrics, stores them in PostgreSQL and publishes them to RabbitMQ" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
