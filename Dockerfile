# The environment of a run: the GPU's own PyTorch and Transformer Engine from the base image, and the locked packages.
#
#   docker build -t llama31 .                                                          for NVIDIA GPUs
#   docker build -t llama31-cpu --build-arg BASE_IMAGE=python:3.11-slim-bookworm .     CPU: the tiny benchmark
#   docker run --rm llama31-cpu                                                        trains the tiny benchmark
#
# Shell fragments are for sh: podman and buildah know no SHELL unless they are told --format docker.
# A submission names its base image by digest: --build-arg BASE_IMAGE=nvcr.io/nvidia/pytorch@sha256:<digest>
# By its release notes it brings Transformer Engine 2.11, which Megatron-Core 0.16.1 works with; 25.09 brings 2.8, which it does not.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.01-py3
FROM ${BASE_IMAGE}

ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MLPerf Llama 3.1 405B training harness" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
WORKDIR /workspace/llama31

# A base image without pip (debian:12) gets Debian's, whose packages may then be added to.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN if ! python3 -m pip --version; then \
      apt-get update && apt-get install --yes --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*; \
    fi

# Before the code, so that a change of code does not install everything again. A base image's own torch stays; where there is
# none it is the one of pyproject.toml, without a hash: its build is the machine's choice. NVIDIA's images pin packages by
# PIP_CONSTRAINT, which would contradict the lock.
COPY pyproject.toml requirements.lock requirements-nodeps.lock ./
RUN unset PIP_CONSTRAINT && \
    if python3 -c 'import torch'; then torch=; else torch=$(grep -o 'torch==[0-9.]*' pyproject.toml); fi && \
    python3 -m pip install --no-deps --require-hashes -r requirements.lock -r requirements-nodeps.lock && \
    if [ -n "$torch" ]; then python3 -m pip install "$torch"; fi

COPY . .
RUN python3 -m pip install --no-deps --no-build-isolation --editable .
# Refuses a base image whose Transformer Engine is outside of that range; one without it is for CPUs.
RUN python3 -m harness.launch.image
ENV HARNESS_PYTHON=python3
CMD ["bash", "run_and_time.sh"]
