# An image in which README's two commands run; docs/INSTALL.md has the lines that build and run it.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

# gcc: Triton builds the launchers of its kernels when they first run on a GPU
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home user \
    && install -d -o 1000 -g 1000 /home/user/finegrain
USER 1000
WORKDIR /home/user/finegrain

# cpu; or cuda, for a machine with NVIDIA's container toolkit
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1
# an edit of the code leaves this layer, with all packages, as it is
COPY --chown=1000:1000 Makefile README.md pyproject.toml requirements*.txt ./
COPY --chown=1000:1000 src/finegrain/__init__.py src/finegrain/
RUN make dev TORCH="${TORCH}"

COPY --chown=1000:1000 . .
RUN make dev
CMD ["make", "repro"]
