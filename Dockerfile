# docker build -t kitlib .
# docker run --rm -p 8888:8888 -v "$PWD/data:/home/student/kitlib/data" -v "$PWD/runs:/home/student/kitlib/runs" kitlib
FROM python:3.11-slim-bookworm

# make for the README's commands; their versions are Debian's
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 student \
    && python -m venv /opt/kitlib \
    && chown -R student /opt/kitlib

USER 1000
WORKDIR /home/student/kitlib
# As make sees it, this environment is active, so it makes no other.
ENV VIRTUAL_ENV=/opt/kitlib PATH=/opt/kitlib/bin:$PATH

COPY --chown=student requirements.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock
COPY --chown=student . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . && touch /opt/kitlib/.kitlib-requirements.lock

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks"]
