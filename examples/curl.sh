#!/bin/sh
# Every wire format with nothing but curl.
#
#     sh examples/curl.sh
#
# PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks.
set -eu
url=${PENSTOCK_BASE_URL:-http://127.0.0.1:4000}
key=${PENSTOCK_API_KEY:-unused}
model=${PENSTOCK_MODEL:-auto}

ask() { # ask PATH BODY
  printf '\n== %s\n' "$1"
  curl --fail-with-body --silent --show-error --no-buffer "$url$1" \
    -H "authorization: Bearer $key" -H 'content-type: application/json' -d "$2"
}

question='[{"role":"user","content":"What is a penstock?"}]'
ask /v1/chat/completions "{\"model\":\"$model\",\"messages\":$question}"
ask /v1/chat/completions "{\"model\":\"$model\",\"messages\":$question,\"stream\":true}"
ask /v1/responses "{\"model\":\"$model\",\"input\":\"What is a penstock?\",\"store\":false}"
ask /v1/messages "{\"model\":\"$model\",\"max_tokens\":1024,\"messages\":$question}"
ask /v1/messages/count_tokens "{\"model\":\"$model\",\"messages\":$question}"
ask /v1/completions "{\"model\":\"$model\",\"prompt\":\"A penstock is\",\"max_tokens\":64}"

printf '\n== /v1/models\n'
curl --fail-with-body --silent --show-error "$url/v1/models" -H "authorization: Bearer $key"
echo
