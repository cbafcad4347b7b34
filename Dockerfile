# Translates /input to /output with the model that is mounted at /model (a run folder):
#   docker build -t gantk .                                    for the CPU
#   docker build -t gantk:cuda --build-arg TORCH=cu130 .       for NVIDIA GPUs (cu126 and cu128 for older drivers)
#   docker run --rm -v "$PWD/scans:/input:ro" -v "$PWD/results:/output" -v "$PWD/runs/first:/model:ro" gantk
FROM python:3.12-slim-bookworm

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /source
COPY constraints.txt ./
# PyTorch's own index holds its builds by processor; everything else comes from PyPI, in the versions that were tested.
RUN pip install --index-url "https://download.pytorch.org/whl/${TORCH}" --extra-index-url https://pypi.org/simple \
        --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY gantk gantk
COPY plugins plugins
COPY benchmarks benchmarks
COPY recipes recipes
RUN pip install --constraint constraints.txt ".[dicom,onnx]" \
    && useradd --create-home --uid 1000 gantk \
    && mkdir /input /output \
    && chown gantk /output

USER 1000
# also where `docker run --user` names a user whom the image does not know
ENV HOME=/tmp GANTK_CACHE=/tmp/gantk-cache
WORKDIR /output
ENTRYPOINT ["gantk", "translate", "/model", "/input", "/output"]
