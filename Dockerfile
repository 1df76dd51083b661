FROM python:3.11-slim-bookworm AS build
# for the compiled transcoder; without it the image would work as well
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/runtime.txt requirements/runtime.txt
RUN python -m venv /opt/instep \
 && /opt/instep/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY . .
RUN /opt/instep/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /project instep
COPY --from=build /opt/instep /opt/instep
ENV PATH=/opt/instep/bin:$PATH PYTHONUNBUFFERED=1
USER instep
WORKDIR /project
ENTRYPOINT ["instep"]
CMD ["--help"]
