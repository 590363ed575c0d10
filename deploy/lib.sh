# deploy/lib.sh - what the scripts here share.  Source it from bash; ROOT is the repository.

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

is_installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

# Installs what is missing of the Debian packages named; says what it does.  apt's lists are fetched once.
apt_install() {
    local missing=() p
    for p in "$@"; do
        is_installed "$p" || missing+=("$p")
    done
    if [ ${#missing[@]} = 0 ]; then
        note "packages: all $# are there"
        return
    fi
    note "packages: installing ${missing[*]}"
    if [ -z "${APT_UPDATED:-}" ]; then
        as_root apt-get update -qq
        APT_UPDATED=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
}

# What building takes, and what running over several ranks takes.
BUILD_PACKAGES=(build-essential cmake ninja-build pkg-config git ca-certificates libjansson-dev libcurl4-openssl-dev libssl-dev libutf8proc-dev
    libpcre2-dev libxxhash-dev libmicrohttpd-dev libsimde-dev libinih-dev libzmq3-dev libprotobuf-c-dev protobuf-c-compiler openmpi-bin libopenmpi-dev libhwloc-dev libpmix-dev libcmocka-dev)
PYTHON_PACKAGES=(python3 python3-venv python3-pip)

# python_env DIR PACKAGE...: a virtual environment with these PyPI packages (or options of pip install); made again only when the list changes, or
# a file of packages that it names.
python_env() {
    local dir=$1 want arg
    shift
    want="$(python3 -V) $*"
    for arg in "$@"; do
        [ ! -f "$arg" ] || want+=" $(cksum <"$arg")"
    done
    if [ "$(cat "$dir/.have" 2>/dev/null)" = "$want" ]; then
        note "Python: $dir is there"
        return
    fi
    note "Python: $* into $dir"
    python3 -m venv "$dir" && "$dir/bin/pip" install -q --disable-pip-version-check "$@" && printf '%s' "$want" >"$dir/.have"
}

# Open MPI refuses root, and more ranks than cores, unless told; ranks that share a core must yield.
mpi_environment() {
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_MCA_btl_vader_single_copy_mechanism=none # forbidden in most containers, and then a warning for each rank
}

cores() { nproc; }
