#!/usr/bin/env bash
# Gets redis-server, for the tests that start their own. By the system's package manager, and only as root or with
# INSTALL_SYSTEM=1; never fails the run: without it those tests are skipped, and the test report says so.
# It runs on bash 3.2, as macOS has it.
set -eu

command -v redis-server >/dev/null 2>&1 && exit 0

say() { printf '%s\n' "penstock: $*"; }

# Installing the package must not leave a second server running on this machine: Debian's package asks this file.
policy=/usr/sbin/policy-rc.d

install_with_apt() {
  [ "$(id -u)" = 0 ] && as_root= || as_root=sudo
  apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get"
  if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
  fi
  $apt install -y -qq --no-install-recommends redis-server >/dev/null 2>&1 ||
    { $apt update -qq >/dev/null 2>&1 && $apt install -y -qq --no-install-recommends redis-server >/dev/null 2>&1; }
}

if [ "$(id -u)" != 0 ] && [ "${INSTALL_SYSTEM:-}" != 1 ]; then
  exit 0 # the test report has the line that says how to get it
fi
if command -v apt-get >/dev/null 2>&1; then
  say "installing redis-server"
  install_with_apt || say "could not install redis-server; tests that need it are skipped"
elif command -v brew >/dev/null 2>&1; then
  say "installing redis"
  brew install --quiet redis >/dev/null 2>&1 || say "could not install redis; tests that need it are skipped"
fi
