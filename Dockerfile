# The worker. Models are downloaded into /data at the first start, or put into the image:
#   docker build --build-arg MODEL=all-MiniLM-L6-v2 -t embedmill .
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# The same three lines as the Makefile's, from the same lock.
RUN python3 -m venv /opt/embedmill
COPY requirements.lock ./
RUN /opt/embedmill/bin/python -m pip --disable-pip-version-check --quiet --no-cache-dir install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY producer producer
COPY worker worker
RUN /opt/embedmill/bin/python -m pip --disable-pip-version-check --quiet --no-cache-dir install --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin embedmill \
    && install --directory --owner=embedmill --group=embedmill --mode=0700 /data /files
COPY --from=build /opt/embedmill /opt/embedmill
ENV PATH=/opt/embedmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EMBEDMILL_DATA_DIR=/data \
    HF_HOME=/data/huggingface \
    EMBEDMILL_HEALTH_FILE=/tmp/embedmill-health.json
USER 10001
WORKDIR /data
ARG MODEL=
RUN if [ -n "${MODEL}" ]; then embedmill models pull "${MODEL}"; fi
# A model in the image is also the one that is served, unless another is named.
ENV EMBEDMILL_MODEL=${MODEL}
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["embedmill", "health", "--live"]
ENTRYPOINT ["embedmill"]
CMD ["worker"]
