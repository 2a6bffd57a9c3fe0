#!/usr/bin/env bash
# Resolve constraints.txt anew from pyproject.toml, for every Python we support at once. Needs `uv` on the PATH.
# Pins that still satisfy pyproject.toml are kept; `scripts/constraints.sh --upgrade` takes the newest of everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=constraints.txt
draft=$(mktemp)
trap 'rm -f "$draft"' EXIT
[ ! -f "$output" ] || grep -v '^#' "$output" > "$draft"

# The base layer of every environment: the set-up brings pip to this version before it installs anything, because old
# ones fail on dependencies that name one extra twice.
printf 'pip>=25\n' | uv pip compile pyproject.toml - --universal --python-version 3.10 --all-extras \
  --no-header --no-annotate --quiet --output-file "$draft" "$@"

# Linux and CPython are what [tool.uv] in pyproject.toml restricts the resolution to: said once, not on every line.
{
  echo '# Every version that was tested together, for Python 3.10 to 3.12 on Linux. Made by scripts/constraints.sh.'
  echo '# The CUDA packages are left out on purpose: each build of torch names the exact ones that it needs.'
  # torch comes first: it is installed before the rest, so that nothing else chooses its version.
  grep '^torch==' "$draft"
  grep -v -E '^(torch==|nvidia-|cuda-|triton)' "$draft"
} | sed -E \
  -e "s/ and platform_python_implementation == 'CPython' and sys_platform == 'linux'//g" \
  -e "s/ and implementation_name != 'PyPy'//g" \
  -e "s/ and python_full_version < '3.13'//g" \
  -e "s/ ; python_full_version < '3.13'$//" \
  -e 's/^(hf-xet|psycopg-binary)(==[^ ]+) ;.*/\1\2/' \
  > "$output"
