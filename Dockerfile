# The image simulation-service: build it with `make docker-build`. README.md, "The image", says how
# to run it, and how to build it behind a private index.
#
# No `# syntax=` line, no apt-get: beside the base image and the locked wheels nothing is fetched.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
# The pip that installs is not the environment's own, which has none.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
COPY locks/k8s.txt /tmp/locks/
# Wheels only: nothing is compiled, and no package runs code of its own. Where packages come from,
# and whom to trust, are secrets of this one step: they can hold passwords, and get into no layer.
# pip passes over the file of settings where it is not given.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    if [ -e /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && PIP_CONFIG_FILE=/run/secrets/pip.conf \
    /opt/pip/bin/pip --python /opt/venv/bin/python --no-cache-dir --disable-pip-version-check \
      install --require-hashes --only-binary :all: -r /tmp/locks/k8s.txt \
    # 60 MB that nothing reads.
    && rm -rf /opt/venv/lib/python3*/site-packages/pandas/tests \
      /opt/venv/lib/python3*/site-packages/pyarrow/tests \
      /opt/venv/lib/python3*/site-packages/pyarrow/include

FROM ${PYTHON_IMAGE} AS code
COPY pyproject.toml workspace.yaml dagster.yaml /app/
COPY migrations /app/migrations
COPY sim_pipeline /app/sim_pipeline
# In a read-only file system nobody could do this later. By content: times are the checkout's.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE}
# What needs root in a container without capabilities would fail in any case.
RUN groupadd --gid 10001 sim_pipeline \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
      --home-dir /var/lib/sim_pipeline --shell /usr/sbin/nologin sim_pipeline \
    && install --directory --owner=10001 --group=10001 /var/lib/sim_pipeline \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /app /app
# The working directory, which is writable, is not to be imported from.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# State, such as the output of runs and the log: the only place that is written to, beside /tmp.
WORKDIR /var/lib/sim_pipeline
USER 10001:10001
EXPOSE 3000
# Several seconds of migrating, starting and a first run come before it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=4 \
    CMD ["python", "-m", "sim_pipeline.entrypoints.healthcheck"]
# SIGTERM, which Docker sends by default, ends every command here in good order. None leaves
# orphans that need an init to reap them, see `Programs.watch`: Python is process 1.
CMD ["python", "-m", "sim_pipeline", "run", "--ui-host", "0.0.0.0"]

ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="simulation-service" \
      org.opencontainers.image.description="Simulates LLM serving metrics, stores them in PostgreSQL and publishes them to RabbitMQ" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
