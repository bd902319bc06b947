# SPDX-License-Identifier: Apache-2.0
# Sourced by quickstart and test: system tools and the virtual environment. Sets PYTHON.

say() { printf '== %s\n' "$*" >&2; }

# need_tools PACKAGE...: install Debian packages whose command is missing (g++ make perl: same names).
need_tools() {
    local missing=()
    for tool in "$@"; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            say "missing: $*; install them as root and try again"
            return 1
        }
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || {
        say "missing: $*; install them with this system's package manager and try again"
        return 1
    }
    say "installing $*"
    # Standard output belongs to the command that is run afterwards (--json).
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# need_libpython: cocotb embeds the interpreter as a shared library, which Debian's python3 does without.
need_libpython() {
    [ -n "$("$PYTHON" -m find_libpython)" ] ||
        install_packages "$("$PYTHON" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')"
}

# need_environment EXTRA: a virtual environment with hwgen and, for EXTRA "dev", what the tests need.
# HWGEN_PYTHON names an interpreter whose environment is complete: then nothing is installed.
need_environment() {
    local extra=$1 folder=${HWGEN_VENV:-.venv} stamp wanted
    if [ -n "${HWGEN_PYTHON:-}" ]; then
        PYTHON=$HWGEN_PYTHON
        return 0
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "python3 must be at least 3.11, not $(python3 --version)"
        return 1
    }
    [ -x "$folder/bin/python" ] || {
        say "making $folder"
        python3 -m venv "$folder"
    }
    PYTHON=$folder/bin/python
    stamp=$folder/.hwgen-$extra
    wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return 0
    say "installing Python packages into $folder"
    if [ "$extra" = dev ]; then
        # torch before the rest: transformers must not choose one that drags GPU libraries in.
        need_torch
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
    else
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -e .
    fi
    printf '%s' "$wanted" >"$stamp"
}

# need_torch: a CPU build if one can be had; otherwise the tests that need torch skip and say why.
need_torch() {
    local version=2.13.0 choice index=()
    "$PYTHON" -c 'import torch' 2>/dev/null && return 0
    [ -n "${HWGEN_TORCH_INDEX:-}" ] && index=(--index-url "$HWGEN_TORCH_INDEX")
    choice=$("$PYTHON" -m pip install --quiet --disable-pip-version-check --dry-run --report - \
        "${index[@]}" "torch==$version" 2>/dev/null) || {
        say "no torch $version here: tests that need it will be skipped"
        return 0
    }
    if grep -qE '"name": *"(nvidia-|triton)' <<<"$choice"; then
        say "only a GPU build of torch here (gigabytes): tests that need torch will be skipped;"
        say "set HWGEN_TORCH_INDEX to the index of CPU builds to run them"
        return 0
    fi
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "${index[@]}" "torch==$version" ||
        say "torch $version could not be installed: tests that need it will be skipped"
}
