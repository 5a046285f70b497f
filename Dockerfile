# A small image that serves models/nano on the CPU.
#   docker build -t riveg .
#   docker run --rm -p 8080:8080 riveg
# For a GPU: build with --build-arg FEATURES=cuda on a base that has the CUDA toolkit
# (BUILD_IMAGE) and run on one that has its libraries (RUN_IMAGE).
ARG BUILD_IMAGE=rust:1-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG FEATURES=""
ARG RIVEG_GIT_REVISION=unknown
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
