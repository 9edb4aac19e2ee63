FROM rust:1.95-bookworm AS build
WORKDIR /build
# Dependencies first: they are built again only when Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/load \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs benches/load/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin pgvigil \
    && rm -r src benches
COPY src src
COPY config/aws-prices.toml config/aws-prices.toml
COPY benches benches
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin pgvigil \
    && strip target/release/pgvigil

FROM debian:bookworm-slim
# ca-certificates: for sslrootcert=system and for AWS. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && useradd --system --uid 10732 --home-dir /nonexistent --shell /usr/sbin/nologin pgvigil \
    && install --directory --owner=pgvigil --group=pgvigil --mode=0700 /var/lib/pgvigil
COPY --from=build /build/target/release/pgvigil /usr/local/bin/pgvigil
USER 10732:10732
# Inside a container the port must be reachable from outside it; publish it only where it should be.
ENV PGVIGIL_SERVER__LISTEN=0.0.0.0:9732
# Alerts, and what was told of them, outlive the container when this is a volume.
ENV STATE_DIRECTORY=/var/lib/pgvigil
VOLUME /var/lib/pgvigil
EXPOSE 9732
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/pgvigil", "health"]
ENTRYPOINT ["/usr/local/bin/pgvigil"]
