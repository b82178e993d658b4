# docker build -t danet . && docker run --rm -p 127.0.0.1:8000:8000 danet
FROM python:3.11-slim-bookworm
# PyTorch's index of wheels for CPUs, which are a fraction of those with CUDA, may be given here.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /danet
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve]' && useradd --create-home --uid 1000 danet
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["danet", "serve", "--host", "0.0.0.0"]
