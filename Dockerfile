# docker build -t lenient .
#   on PyPI torch brings CUDA, several GB; torch's site names an index of its builds for CPUs:
#   docker build -t lenient --build-arg PIP_EXTRA_INDEX_URL=URL .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/files" lenient distill teacher.safetensors -o runs/mine
# On a GPU: add --gpus all --shm-size 1g.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN PIP_CONSTRAINT=constraints.txt pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN set -- /wheels/*.whl && pip install --no-cache-dir -c /wheels/constraints.txt "$1[onnx,tensorboard,transformers]"
# whoever runs it need have no home, and no folder of the host's
RUN mkdir -m 1777 /files
ENV HOME=/tmp
USER 65534
WORKDIR /files
ENTRYPOINT ["lenient"]
CMD ["--help"]
