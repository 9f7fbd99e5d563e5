#!/usr/bin/env bash
# Makes .venv and installs Penstock into it, for one profile:
#
#   scripts/bootstrap.sh demo        what serving needs, with the CPU builds
#   scripts/bootstrap.sh test        and what the tests need (with litellm, by hash)
#   scripts/bootstrap.sh training    and what exporting an encoder needs (torch, sentence-transformers), and the clients
#                                    and Ray, which only slow tests run
#
# A second run finds nothing to do and takes a few milliseconds. It installs again when pyproject.toml, constraints.txt or
# requirements/ changed, when the folder moved, and when the environment does not work any more.
#
# PYTHON           the interpreter to use; found by itself otherwise (3.11 or newer)
# INSTALL_SYSTEM=1 allows apt to install Python's venv module where Debian and Ubuntu leave it out (root may anyway)
#
# It runs on bash 3.2, as macOS has it.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0

venv=.venv
profile=${1:-}
case $profile in
  demo) extras=cpu ;;
  test) extras=cpu,litellm,dev ;;
  training) extras=cpu,litellm,dev,clients,ray,training ;;
  *) echo "usage: scripts/bootstrap.sh demo|test|training" >&2; exit 2 ;;
esac

say() { printf '%s\n' "penstock: $*"; }
fail() { printf '%s\n' "penstock: $*" >&2; exit 1; }

works() { # is this an interpreter that we can use? A pyenv shim may be on the PATH and still not run.
  command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    works "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or newer"
    printf '%s\n' "$PYTHON"
    return
  fi
  usable=
  for candidate in python3 python3.13 python3.12 python3.11 python3.14 \
    /opt/homebrew/bin/python3 /usr/local/bin/python3 /usr/bin/python3; do
    if works "$candidate"; then
      if has_venv "$candidate"; then printf '%s\n' "$candidate"; return; fi
      usable=${usable:-$candidate}
    fi
  done
  [ -n "$usable" ] && { printf '%s\n' "$usable"; return; }
  fail "no Python 3.11 or newer found. Debian 12+, Ubuntu 24.04+: sudo apt-get install python3 python3-venv;" \
    "macOS: brew install python@3.13. Or name one: make PYTHON=/path/to/python3 ..."
}

install_venv_module() { # Debian and Ubuntu keep ensurepip in a package of its own
  package="python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  if ! command -v apt-get >/dev/null 2>&1; then
    fail "$1 has no venv module with pip (ensurepip); install a complete Python, or name one: make PYTHON=..."
  fi
  if [ "$(id -u)" = 0 ]; then
    as_root=
  elif [ "${INSTALL_SYSTEM:-}" = 1 ]; then
    as_root=sudo
  else
    fail "$1 cannot make virtual environments yet. Install the missing part and try again:" \
      "sudo apt-get install $package"
  fi
  say "installing $package"
  apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get"
  $apt install -y -qq "$package" >/dev/null 2>&1 ||
    { $apt update -qq && $apt install -y -qq "$package" >/dev/null; } ||
    fail "could not install $package"
}

venv_works() { # scripts inside an environment name its folder, so it does not survive a move
  [ "$(cat "$venv/.made-in" 2>/dev/null || pwd)" = "$(pwd)" ] && [ -f "$venv/pyvenv.cfg" ] && works "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

make_venv() {
  python=$(find_python)
  has_venv "$python" || install_venv_module "$python"
  [ -e "$venv" ] && say "the environment in $venv does not work; making it anew"
  rm -rf "$venv"
  say "making $venv with $("$python" --version 2>&1)"
  "$python" -m venv "$venv"
  pwd >"$venv/.made-in"
}

fingerprint() { # everything that decides what must be installed
  { pwd; echo "$extras"; cat pyproject.toml constraints.txt requirements/*.txt scripts/bootstrap.sh; } | cksum
}

# Compiling every module of every package takes a third of the time; Python compiles what is imported when it is.
pip_install() { "$venv/bin/python" -m pip install --quiet --no-compile "$@"; }

install() {
  say "installing for '$profile' (once; a minute or two)"
  pip_install --constraint constraints.txt hatchling editables
  case $profile in
    demo) ;;
    *) pip_install --require-hashes --no-deps -r requirements/litellm.txt ;;
  esac
  pip_install --constraint constraints.txt --no-build-isolation --editable ".[$extras]"
  case $profile in
    training)
      pip_install --constraint constraints.txt -r requirements/encoders.txt
      pip_install --no-deps --upgrade --target "$venv/anthropic-0" -r requirements/anthropic-0.txt
      ;;
  esac
}

is_installed() { # a bigger profile's stamp counts for the smaller ones
  [ -f "$venv/bin/penstock" ] && works "$venv/bin/python" || return 1
  for candidate in "$@"; do
    stamp="$venv/.installed-$candidate"
    if [ -f "$stamp" ]; then
      extras=$(sed -n 2p "$stamp")
      [ "$(sed -n 1p "$stamp")" = "$(fingerprint)" ] && return 0
    fi
  done
  return 1
}

wanted=$extras
case $profile in
  demo) is_installed demo test training && exit 0 ;;
  test) is_installed test training && exit 0 ;;
  training) is_installed training && exit 0 ;;
esac
extras=$wanted
venv_works || make_venv
rm -f "$venv"/.installed-* # an interrupted installation must not look finished
install
printf '%s\n%s\n' "$(fingerprint)" "$extras" >"$venv/.installed-$profile"
