# Ingle in a container: `docker build .` for CPUs, `docker build --build-arg DEVICE=cuda .` for NVIDIA GPUs.
#
# TORCH_INDEX is a package index that holds PyTorch's CPU wheels (pytorch.org names it). Without it the CPU image
# takes the wheels of the ordinary index, which work as well and are several gigabytes larger, as they bring CUDA.

# A digest may be set here too, as read from the registry.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG DEVICE=cpu

# -- what is installed -------------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN ["python", "-m", "venv", "/opt/ingle"]
WORKDIR /src
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY domain domain
COPY application application
COPY models models
COPY infrastructure infrastructure
COPY api api
COPY ingle ingle

FROM build AS build-cpu
ARG TORCH_INDEX=""
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" \
    /opt/ingle/bin/python -m pip install --constraint constraints.txt ".[postgres,celery]"

FROM build AS build-cuda
RUN ["/opt/ingle/bin/python", "-m", "pip", "install", "--constraint", "constraints.txt", ".[postgres,celery,cuda]"]

# -- what runs ---------------------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Ingle" \
      org.opencontainers.image.description="Text, speech and embedding models in one process, served to other programs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN ["install", "--directory", "--owner=10001", "--group=10001", "--mode=0750", "/models", "/data"]
ENV PATH=/opt/ingle/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/models/hf \
    INGLE_MODELS_DIR=/models \
    INGLE_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME ["/models", "/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 CMD ["ingle", "health"]
ENTRYPOINT ["ingle"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/ingle /opt/ingle

FROM runtime AS cpu
COPY --from=build-cpu /opt/ingle /opt/ingle

FROM ${DEVICE}
