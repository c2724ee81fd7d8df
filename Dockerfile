# The environment of a run: the GPU's own PyTorch and Transformer Engine from the base image, and the locked packages.
#
#   docker build -t llama31 .                                                          for NVIDIA GPUs
#   docker build -t llama31-cpu --build-arg BASE_IMAGE=python:3.11-slim-bookworm .     CPU: the tiny benchmark
#   docker run --rm llama31-cpu                                                        trains the tiny benchmark
#
# Shell fragments are for sh, because podman and buildah ignore SHELL without --format docker.
# A submission names its base image by digest: --build-arg BASE_IMAGE=nvcr.io/nvidia/pytorch@sha256:<digest>
# By its release notes, 26.01 contains Transformer Engine 2.11, which Megatron-Core 0.16.1 supports; 25.09 contains 2.8, which it doesn't.
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

# A base image without pip (debian:12) gets Debian's. The variable lets pip add to Debian's own packages.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN if ! python3 -m pip --version; then \
      apt-get update && apt-get install --yes --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*; \
    fi

# Before the code, so that a change of the code does not install everything again. The base image's own torch stays. An image
# without torch gets the version of pyproject.toml, without a hash, because its build depends on the machine. NVIDIA's images
# pin packages by PIP_CONSTRAINT, which would contradict the lock.
COPY pyproject.toml requirements.lock requirements-nodeps.lock ./
RUN unset PIP_CONSTRAINT && \
    if python3 -c 'import torch'; then torch=; else torch=$(grep -o 'torch==[0-9.]*' pyproject.toml); fi && \
    python3 -m pip install --no-deps --require-hashes -r requirements.lock -r requirements-nodeps.lock && \
    if [ -n "$torch" ]; then python3 -m pip install "$torch"; fi

COPY . .
RUN python3 -m pip install --no-deps --no-build-isolation --editable .
# Refuses a base image whose Transformer Engine Megatron-Core does not support. An image without Transformer Engine is for CPUs.
RUN python3 -m harness.launch.image
ENV HARNESS_PYTHON=python3
CMD ["bash", "run_and_time.sh"]
