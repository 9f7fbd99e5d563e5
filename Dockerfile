# syntax=docker/dockerfile:1
# Images of Penstock. Targets: `cpu` (the default), `cuda`, `trainer`, `ray`. Every step is a make target that runs without
# Docker, too: `make wheel`, `make image-root`, `make sbom`.
#
#   docker build -t penstock/penstock:0.1.0 .
#   docker build -t penstock/penstock:0.1.0-cuda --target cuda .
#   docker build -t penstock/penstock:0.1.0-trainer --target trainer .
#   docker build -t penstock/penstock:0.1.0-ray --target ray .      a trainer that is also a node of a Ray cluster

ARG PYTHON_VERSION=3.11
ARG CUDA_IMAGE=nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04

# --- the wheel, with the encoders and the default router inside
FROM python:${PYTHON_VERSION}-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt hatchling && python -m hatchling build -t wheel -d /wheels

# --- environments, without build tools; each with a list of what is in it
FROM python:${PYTHON_VERSION}-slim-bookworm AS environment
COPY --from=wheel /wheels /wheels
COPY constraints.txt scripts/make_sbom.py /build/
ARG EXTRAS=cpu,otel,redis,ship,signing
RUN python -m venv /opt/penstock \
 && /opt/penstock/bin/pip install --no-cache-dir -c /build/constraints.txt "$(ls /wheels/*.whl)[${EXTRAS}]" \
 && /opt/penstock/bin/python /build/make_sbom.py /opt/penstock/sbom.cdx.json \
 && /opt/penstock/bin/pip uninstall -y pip setuptools \
 && /opt/penstock/bin/python -m compileall -q /opt/penstock/lib

FROM environment AS trainer-environment
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/penstock --upgrade-deps \
 && /opt/penstock/bin/pip install --no-cache-dir -c /build/constraints.txt "$(ls /wheels/*.whl)[cpu,fit,ship,signing]" \
 && /opt/penstock/bin/python /build/make_sbom.py /opt/penstock/sbom.cdx.json \
 && /opt/penstock/bin/pip uninstall -y pip setuptools

FROM environment AS ray-environment
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/penstock --upgrade-deps \
 && /opt/penstock/bin/pip install --no-cache-dir -c /build/constraints.txt "$(ls /wheels/*.whl)[cpu,fit,ray-node,ship,signing]" \
 && /opt/penstock/bin/python /build/make_sbom.py /opt/penstock/sbom.cdx.json \
 && /opt/penstock/bin/pip uninstall -y pip setuptools

# --- what runs: no shell history, no package manager of Python, no root
FROM python:${PYTHON_VERSION}-slim-bookworm AS base
ENV PATH=/opt/penstock/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
RUN groupadd --gid 65532 penstock && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp penstock \
 && install -d -o 65532 -g 65532 /events /registry /artifact \
 && rm -rf /usr/local/lib/python*/site-packages/pip /usr/local/bin/pip*
USER 65532:65532
WORKDIR /tmp
EXPOSE 4000
ENTRYPOINT ["penstock"]
CMD ["serve"]

FROM base AS trainer
COPY --from=trainer-environment /opt/penstock /opt/penstock
ENTRYPOINT []
CMD ["penstock-train", "--help"]

FROM base AS ray
COPY --from=ray-environment /opt/penstock /opt/penstock
ENTRYPOINT []
CMD ["penstock-train", "--help"]

FROM ${CUDA_IMAGE} AS cuda-environment
COPY --from=wheel /wheels /wheels
COPY constraints.txt scripts/make_sbom.py /build/
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
 && python3 -m venv /opt/penstock \
 && /opt/penstock/bin/pip install --no-cache-dir -c /build/constraints.txt "$(ls /wheels/*.whl)[gpu,otel,redis,ship,signing]" \
 && /opt/penstock/bin/python /build/make_sbom.py /opt/penstock/sbom.cdx.json \
 && /opt/penstock/bin/pip uninstall -y pip setuptools

FROM ${CUDA_IMAGE} AS cuda
ENV PATH=/opt/penstock/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 penstock && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp penstock \
 && install -d -o 65532 -g 65532 /events /registry /artifact
COPY --from=cuda-environment /opt/penstock /opt/penstock
USER 65532:65532
WORKDIR /tmp
EXPOSE 4000
ENTRYPOINT ["penstock"]
CMD ["serve"]

FROM base AS cpu
COPY --from=environment /opt/penstock /opt/penstock
