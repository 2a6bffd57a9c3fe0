#!/usr/bin/env bash
# Prepare this folder for `make demo` and `make test`: a virtual environment in .venv with every pinned package, and
# Quantum ESPRESSO and graphviz from the distribution. Everything that can be refused is checked first and reported
# together; nothing is changed before all checks pass. When all is there already, it ends after a second.
#
#   PYTHON=/path/to/python3.11 scripts/setup.sh     to choose the Python that makes the environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME
# The Python that makes the environment cannot be the one inside it.
PATH=$(printf '%s' "$PATH" | tr ':' '\n' | grep --line-regexp --fixed-strings --invert-match "$PWD/.venv/bin" | paste --serial --delimiters=:)

readonly VENV=.venv
readonly STAMP=$VENV/.set-up-complete
readonly EXTRAS='mace,metatrain,descriptors,report,bench,tests,docs,dev'
readonly PSEUDOPOTENTIAL=/usr/share/espresso/pseudo/Si.pbe-rrkj.UPF

problems=()
apt_packages=()
python=''
as_root=()

say() { printf '%s\n' "$*"; }

# The interpreter itself, where the command is a wrapper that chooses one.
interpreter() { "$1" -c 'import sys; print(sys.executable)'; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    if is_supported "$PYTHON"; then python=$(interpreter "$PYTHON"); return; fi
    problems+=("PYTHON=$PYTHON is not a working Python 3.10, 3.11 or 3.12. Set PYTHON to one, or leave it unset.")
    return
  fi
  for candidate in python3.11 python3.12 python3.10 python3; do
    if is_supported "$candidate"; then python=$(interpreter "$candidate"); return; fi
  done
  problems+=("No Python 3.10, 3.11 or 3.12 was found. Install one, or name it: PYTHON=/path/to/python3.11 make demo")
}

# A distribution's Python comes without ensurepip, which `python -m venv` needs; any other Python has to bring it.
check_venv_module() {
  local system_python
  if [ -z "$python" ] || "$python" -c 'import venv, ensurepip' 2>/dev/null; then return; fi
  system_python=$("$python" -c 'import sys; print(sys.base_prefix == "/usr" and "python%d.%d" % sys.version_info[:2] or "")')
  if [ -n "$system_python" ]; then
    apt_packages+=("$system_python-venv")
  else
    problems+=("$python has no working venv module (venv, ensurepip). Name another Python: PYTHON=/path/to/python3.11")
  fi
}

check_programs() {
  # Open MPI's own starter is only recommended by the package, but pw.x does not even start alone without it.
  if ! command -v pw.x >/dev/null; then
    # The reference BLAS that it takes otherwise makes pw.x half as fast.
    apt_packages+=(quantum-espresso openmpi-bin libopenblas0-serial)
  elif ldd "$(command -v pw.x)" 2>/dev/null | grep -q 'libmpi\.so\.40' && ! command -v orted >/dev/null; then
    apt_packages+=(openmpi-bin)
  fi
  [ -f "$PSEUDOPOTENTIAL" ] || apt_packages+=(quantum-espresso-data)
  command -v dot >/dev/null || apt_packages+=(graphviz)
}

check_apt() {
  [ ${#apt_packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    problems+=("These Debian packages are missing and there is no apt-get here: ${apt_packages[*]}. Install the same programs by this system's own means: pw.x and dot on the PATH, $PSEUDOPOTENTIAL in its place.")
  elif [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo)
    else
      problems+=("Packages are missing that only root can install. Ask for these two commands to be run, then come back:
    sudo apt-get update
    sudo apt-get install --yes --no-install-recommends ${apt_packages[*]}")
    fi
  fi
}

check_everything() {
  [ "$(uname -s)" = Linux ] || problems+=("This is $(uname -s); the set-up works on Linux only (Debian or Ubuntu).")
  # An environment that is complete needs no other Python than its own.
  if ! environment_is_current; then
    find_python
    check_venv_module
  fi
  check_programs
  check_apt
  if [ ${#problems[@]} -gt 0 ]; then
    say 'The set-up cannot start, and nothing was changed:' >&2
    printf '  - %s\n' "${problems[@]}" >&2
    exit 1
  fi
}

# What an environment was made from: with any of it changed, it is made or completed anew. Its programs carry the
# absolute path of this folder.
fingerprint() {
  pwd
  cat constraints.txt pyproject.toml scripts/setup.sh | sha256sum
}

environment_is_current() {
  [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] \
    && { [ -z "${PYTHON:-}" ] || same_python "$PYTHON"; }
}

same_python() {
  local ask='import sys; print(sys.version_info[:3])'
  [ -x "$VENV/bin/python" ] && [ "$("$VENV/bin/python" -c "$ask")" = "$("$1" -c "$ask" 2>/dev/null)" ]
}

install_programs() {
  [ ${#apt_packages[@]} -gt 0 ] || return 0
  say "Installing from the distribution: ${apt_packages[*]}"
  "${as_root[@]}" apt-get update --quiet --quiet
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
    "${apt_packages[@]}" > /dev/null
}

install_environment() {
  if environment_is_current; then return; fi
  local moved=()
  if [ -f "$STAMP" ] && [ "$(head -n 1 "$STAMP")" != "$(pwd)" ]; then moved=(--clear); fi
  if [ -d "$VENV" ] && ! same_python "$python"; then moved=(--clear); fi
  rm -f "$STAMP"
  say "Making the virtual environment $VENV with $python"
  "$python" -m venv "${moved[@]}" "$VENV"
  say 'Installing the pinned packages (some minutes the first time)'
  local pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
  "${pip[@]}" install --quiet --quiet --upgrade --constraint constraints.txt pip
  "${pip[@]}" install --quiet --quiet --constraint constraints.txt torch
  "${pip[@]}" install --quiet --quiet --constraint constraints.txt --editable ".[$EXTRAS]"
  fingerprint > "$STAMP"
}

check_everything
install_programs
install_environment
say "The set-up is complete: $VENV ($("$VENV/bin/python" --version)), $(command -v pw.x)"
