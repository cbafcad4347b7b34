# Translates /input to /output with the model that is mounted at /model (a run folder):
#   docker build -t gantk .                                    for the CPU and NVIDIA GPUs
#   docker build -t gantk --build-arg TORCH_INDEX=ADDRESS .    with a smaller PyTorch for the CPU alone, or one for
#       older drivers, from the address that PyTorch's page on installation names for it
#   docker run --rm -v "$PWD/scans:/input:ro" -v "$PWD/results:/output" -v "$PWD/runs/first:/model:ro" gantk
# GANTK_MODEL, GANTK_TO, GANTK_INPUT and GANTK_OUTPUT change model, domain and folders, as for a container of
# grand-challenge.org. plugins/gantk_serve/deploy/compose.yaml runs `gantk serve` with it.
FROM python:3.12-slim-bookworm

ARG TORCH_INDEX
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /source
COPY constraints.txt ./
# The versions that were tested; from TORCH_INDEX where it is given, else as pip is set up.
RUN pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY gantk gantk
COPY plugins plugins
COPY benchmarks benchmarks
COPY recipes recipes
COPY plugins/gantk_serve/deploy/translate.sh /usr/local/bin/translate-input
RUN pip install --constraint constraints.txt ".[dicom,onnx,serve]" \
    && useradd --create-home --uid 1000 gantk \
    && mkdir -p /input /output /var/lib/gantk \
    && chown gantk /output /var/lib/gantk \
    && chmod 755 /usr/local/bin/translate-input

USER 1000
# also where `docker run --user` names a user whom the image does not know
ENV HOME=/tmp GANTK_CACHE=/tmp/gantk-cache
WORKDIR /output
ENTRYPOINT ["translate-input"]
