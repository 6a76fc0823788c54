# The image of a worker: docker build -t trainloom . (for GPUs: --build-arg DEVICE=cuda). See docs/container.md.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# cpu or cuda: which build of torch.
ARG DEVICE=cpu
# Where the CPU build of torch comes from; the CUDA build is in pip's own index.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
# Extras of setup.cfg, such as demo,embedded for `trainloom demo` without servers elsewhere.
ARG EXTRAS=gpu,mysql
WORKDIR /build
RUN python3 -m venv /opt/trainloom
ENV PATH=/opt/trainloom/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# What it depends on first: a layer that a change of the code leaves as it is.
COPY pyproject.toml setup.cfg constraints.txt LICENSE README.md ./
RUN case "$DEVICE" in \
        cpu) index="--extra-index-url $CPU_INDEX" ;; \
        cuda) index="" ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install $index -c constraints.txt ".[$EXTRAS]"
COPY trainloom trainloom
COPY schemas schemas
COPY datasets_impl datasets_impl
COPY models_impl models_impl
COPY trainers trainers
COPY k8s k8s
COPY pipeline pipeline
RUN pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE}
# Further packages of Debian, such as libcurl4 for the embedded MongoDB, or git for code that is fetched at the start.
ARG PACKAGES=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini $PACKAGES \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trainloom \
    && install -d -o 10001 -g 10001 /scratch /workspace
COPY --from=build /opt/trainloom /opt/trainloom
# Everything that is written goes to /tmp: the root file system may be read-only. No setting but the place of the
# progress file, since the environment comes before the files in /etc/trainloom.
ENV PATH=/opt/trainloom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    TRAINLOOM_PROGRESS_FILE=/tmp/trainloom-progress.json
WORKDIR /workspace
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s --retries=3 CMD ["python", "-m", "pipeline.liveness"]
ENTRYPOINT ["tini", "--", "trainloom"]
CMD ["worker", "--once"]
