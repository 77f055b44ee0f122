#!/bin/sh
# A job that nobody waits for, with curl: submit it, follow its events until it is over, fetch its vectors.
#
#     embedmill serve                     # in another terminal
#     sh examples/jobs.sh
set -eu

url=${GATEWAY_URL:-http://127.0.0.1:8080}
key=${GATEWAY_KEY:-unused}
id=example-$(date +%s)-$$

call() {
  curl --silent --show-error --fail-with-body --max-time 60 --header "authorization: Bearer $key" "$@"
}

# Sent again with the same id, as after a lost connection, it is the same job.
call "$url/v1/jobs" --retry 3 --header "content-type: application/json" --header "idempotency-key: $id" \
  --data '{"model": "all-MiniLM-L6-v2", "input": ["Selamat pagi", "good morning"]}'
echo
call "$url/v1/jobs/$id/events" --no-buffer | sed "/^$/d"
# float32, little-endian, 384 in a row
call "$url/v1/jobs/$id/result" --header "accept: application/octet-stream" --output vectors.f32
