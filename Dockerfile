# The image of every mlc-search service; docker-compose.yml says which command each one runs.
FROM python:3.13.14-slim-trixie

# The build of PyTorch: cpu, or a CUDA version such as cu130; https://pytorch.org/get-started lists them.
ARG TORCH=cpu

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

# Gigabytes that seldom change, so before our code. Their versions are held below: an index whose newest PyTorch is
# older than pyproject.toml asks for must fail the build, not be replaced by another build from PyPI.
RUN pip install --index-url "https://download.pytorch.org/whl/${TORCH}" torch torchvision \
    && pip freeze | grep '^torch' > /tmp/torch.txt

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mlc_core/ mlc_core/
COPY search/ search/
COPY studies/ studies/
RUN pip install --constraint /tmp/torch.txt '.[s3,grpc]'

# A new named volume takes over the owner of the folder it is mounted on.
RUN useradd --create-home --uid 1000 mlc \
    && install --directory --owner=mlc --group=mlc /artifacts /cache
# A number, because Kubernetes' runAsNonRoot does not look names up.
USER 1000
# Away from /src, whose packages would be found before the installed ones.
WORKDIR /home/mlc

# A search ends and a worker may be silent for an epoch: only the database has a state worth asking for.
HEALTHCHECK NONE
CMD ["mlc-search", "--help"]
