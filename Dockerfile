# syntax=docker/dockerfile:1
# Two images: `headrace` (worker, archiver and every command) and `triton` (NVIDIA's server with
# the packages that the models import). compose.yaml builds both.

FROM python:3.11.14-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_CACHE_DIR=/var/cache/uv
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
# The environment first: it is 5 GB and changes with the lock only.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-install-project
COPY services services
COPY stream stream
COPY features features
COPY model_repo model_repo
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-editable

FROM python:3.11.14-slim-bookworm AS headrace
# A volume takes over the owner of the directory that it covers.
RUN useradd --uid 10001 --user-group --no-create-home headrace \
    && install -d -o headrace -g headrace /var/lib/headrace /var/lib/headrace/models
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    HEADRACE_DATA_DIR=/var/lib/headrace \
    HEADRACE_CACHE_DIR=/tmp/headrace-cache \
    HEADRACE_READY_FILE=/tmp/ready \
    HEADRACE_LOG_FORMAT=json
USER headrace
VOLUME /var/lib/headrace
ENTRYPOINT ["headrace"]
CMD ["worker"]

# Triton 2.51, the version that the tests run; its Python is 3.10 and its stub needs numpy 1.
FROM nvcr.io/nvidia/tritonserver:24.10-py3 AS triton
RUN pip install --no-cache-dir \
    numpy==1.26.4 torch==2.13.0 safetensors==0.8.0 tokenizers==0.23.3
RUN useradd --uid 10001 --user-group --no-create-home headrace
# Freed memory is kept, as `services/embedded/triton.py` says.
ENV HOME=/tmp \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=268435456 \
    MALLOC_TOP_PAD_=67108864
USER headrace
