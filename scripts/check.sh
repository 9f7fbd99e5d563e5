#!/usr/bin/env bash
# What `make check` runs: format, lint, types, import directions, docs. Runs all of them, then fails if one did,
# or if the working tree is not as it was before (a check that writes, or generated docs that were stale).
set -u
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
failed=

tree_state() { # empty outside a git checkout
  { git status --porcelain --untracked-files=all && git diff; } 2>/dev/null | cksum
}

check() {
  name=$1
  shift
  if output=$("$@" 2>&1); then
    printf '%-8s ok\n' "$name"
  else
    printf '%-8s FAILED: %s\n%s\n' "$name" "$*" "$output"
    failed=1
  fi
}

before=$(tree_state)
check format "$bin/ruff" format --check .
check lint "$bin/ruff" check .
check types "$bin/python" -m mypy
check imports "$bin/lint-imports"
check docs "$bin/python" scripts/check_docs.py
if [ "$(tree_state)" != "$before" ]; then
  printf 'tree     FAILED: the checks changed files:\n'
  git status --short
  failed=1
fi
[ -z "$failed" ]
