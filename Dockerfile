# docker build -t lenient .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/files" lenient distill teacher.safetensors -o runs/mine
# On a GPU: add --gpus all --shm-size 1g.
FROM python:3.12-slim
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[onnx,tensorboard,transformers]'
# whoever runs it need have no home
ENV HOME=/tmp
USER 65534
WORKDIR /files
ENTRYPOINT ["lenient"]
CMD ["--help"]
