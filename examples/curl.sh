#!/bin/sh
# Every HTTP API of the gateway with curl.
#
#     embedmill serve                     # in another terminal
#     sh examples/curl.sh
set -eu

url=${GATEWAY_URL:-http://127.0.0.1:8080}
key=${GATEWAY_KEY:-unused}

call() {
  curl --silent --show-error --fail-with-body --max-time 60 --retry 3 \
    --header "authorization: Bearer $key" --header "content-type: application/json" "$@"
  echo
}

# OpenAI
call "$url/v1/embeddings" --data '{"model": "all-MiniLM-L6-v2", "input": ["Selamat pagi"], "dimensions": 4}'
# The same with options of ours: as fields, or as headers
call "$url/v1/embeddings" --header "x-embedmill-lane: bulk" \
  --data '{"model": "all-MiniLM-L6-v2", "input": "Selamat pagi", "dimensions": 4, "input_type": "query"}'
# text-embeddings-inference
call "$url/embed" --data '{"inputs": "Selamat pagi", "dimensions": 4}'
# Ollama
call "$url/api/embed" --data '{"model": "all-MiniLM-L6-v2", "input": "Selamat pagi", "dimensions": 4}'
# Which models there are, and whether requests would be served now
call "$url/v1/models"
call "$url/health"
