# A small image that serves models/nano on the CPU.
#   docker build -t riveg .
#   docker run --rm -p 8080:8080 riveg
# For a GPU (not tried yet): FEATURES=cuda, CUDA_COMPUTE_CAP as of the card, BUILD_IMAGE with Rust and
# CUDA's compiler, RUN_IMAGE with CUDA's libraries, both of one CUDA version and one Debian or Ubuntu: e.g. NVIDIA's
# nvidia/cuda:…-devel-ubuntu24.04 with Rust added, and its …-runtime-ubuntu24.04.
#   docker build -t riveg --build-arg FEATURES=cuda --build-arg CUDA_COMPUTE_CAP=90 --build-arg … .
#   docker run --rm --gpus all -p 8080:8080 riveg
ARG BUILD_IMAGE=rust:1-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG FEATURES=""
ARG RIVEG_GIT_REVISION=unknown
# A build has no GPU to ask for it.
ARG CUDA_COMPUTE_CAP=90
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY static static
COPY openapi openapi
RUN cargo build --release --locked --features "${FEATURES}" && strip target/release/riveg

FROM ${RUN_IMAGE}
RUN useradd --system --uid 10001 riveg
COPY --from=build /src/target/release/riveg /usr/local/bin/riveg
COPY models /usr/share/riveg/models
USER 10001
ENV RIVEG_HOST=0.0.0.0 RIVEG_PORT=8080
EXPOSE 8080
ENTRYPOINT ["riveg"]
