# One image for CPU and CUDA: the torch of PyPI runs on both, and `--gpus all` passes the GPUs on.
#
#   docker build --tag crossfire .
#   docker run --rm --init --user "$(id -u):$(id -g)" --volume "$PWD":/work crossfire run my-table.toml
#
# `--gpus all` for GPUs, `--volume ~/images:/data` for image sets of your own.
#
# /work has your tables, the store (.crossfire) and the report, as the current folder has without a container; /data is
# where image sets are looked for, and /cache keeps what was downloaded or decoded. Files in /work belong to who `--user`
# names; without it the user is 1000, who may not be able to write there.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .
# By its content alone this file decides whether the next stage installs again.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /wheel/requirements.txt

FROM python:${PYTHON}-slim AS dependencies
# `compare` and the provenance of results ask git, also in a folder that belongs to another user.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
# pip compiles what it installs, for the user cannot write there.
COPY --from=wheel /wheel/requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --root-user-action ignore --requirement /tmp/requirements.txt
# Any user may write here, because `--user` gives one without a home.
RUN useradd --create-home --uid 1000 crossfire && install --directory --mode 1777 /work /data /cache
ENV CROSSFIRE_DATA=/data XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib USER=crossfire

# What .devcontainer uses: the sources are mounted there, and tests need make and a browser.
FROM dependencies AS development
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium make \
    && rm -rf /var/lib/apt/lists/*
USER crossfire

FROM dependencies
COPY --from=wheel /wheel/*.whl /tmp/wheel/
RUN pip install --no-cache-dir --root-user-action ignore --no-deps /tmp/wheel/*.whl && rm -r /tmp/wheel
USER crossfire
WORKDIR /work
VOLUME ["/work", "/data", "/cache"]
ENTRYPOINT ["crossfire"]
