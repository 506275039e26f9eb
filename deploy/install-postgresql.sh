#!/bin/sh
# Installs PostgreSQL's server programs, for the sandbox of `make demo` and `make test`. Does nothing if they are
# installed. Never creates, starts or touches one of the system's clusters.
#
#   deploy/install-postgresql.sh            finds them, or installs them with apt as root or through sudo
#   deploy/install-postgresql.sh --check    finds them, or prints what it would install and fails
#
# Exit code: 0 if they are installed, 1 if not, with the reason on standard error.
set -eu

# Searches the same folders as the sandbox (crates/sandbox/src/postgres/binaries.rs).
find_server() {
    old_ifs=$IFS
    IFS=:
    for folder in $PATH; do
        if has_server "$folder"; then IFS=$old_ifs; return 0; fi
    done
    IFS=$old_ifs
    if from_config=$(pg_config --bindir 2>/dev/null) && has_server "$from_config"; then return 0; fi
    for folder in \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/lib/postgresql*/bin /usr/libexec/postgresql* \
        /usr/lib64/postgresql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin /Applications/Postgres.app/Contents/Versions/*/bin \
        /usr/local/pgsql/bin /opt/homebrew/opt/postgresql/bin /usr/local/opt/postgresql/bin /usr/local/bin
    do
        if has_server "$folder"; then return 0; fi
    done
    return 1
}

has_server() {
    [ -x "$1/initdb" ] && [ -x "$1/postgres" ] && server=$1
}

refuse() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Prints the command that installs them on this system.
advice() {
    for manager in apt-get dnf yum zypper apk pacman brew; do
        command -v "$manager" >/dev/null 2>&1 || continue
        case $manager in
            apt-get) echo "apt-get install postgresql" ;;
            dnf | yum | zypper) echo "$manager install postgresql-server" ;;
            apk) echo "apk add postgresql" ;;
            pacman) echo "pacman -S postgresql" ;;
            brew) echo "brew install postgresql" ;;
        esac
        return
    done
    echo "the package of your system that has initdb and postgres"
}

apt() {
    # Waits for another apt to end, and keeps existing configuration files.
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# Debian's package creates and starts a cluster unless createcluster.conf of postgresql-common forbids it. The file is
# restored at the end, so that a later installation of another version behaves as Debian intends.
install_as_root() {
    settings=/etc/postgresql-common/createcluster.conf
    apt update || echo "apt-get update failed; trying with the existing package lists" >&2
    apt install -y --no-install-recommends postgresql-common
    trap 'if [ -e "$settings.copyhold" ]; then mv -f "$settings.copyhold" "$settings"; fi' EXIT
    trap 'exit 1' HUP INT TERM
    [ -e "$settings" ] || : >"$settings"
    cp -p "$settings" "$settings.copyhold"
    sed '/^[[:space:]]*create_main_cluster/d' "$settings.copyhold" >"$settings"
    echo 'create_main_cluster = false' >>"$settings"
    apt install -y --no-install-recommends postgresql
}

if [ "${1-}" = --as-root ]; then
    install_as_root
    exit
fi

if find_server; then
    echo "PostgreSQL's server programs: $server"
    exit 0
fi

echo "Missing: PostgreSQL's server programs initdb and postgres."
if [ "${1-}" = --check ]; then
    refuse "To install them without creating a cluster, run this without --check. By hand: $(advice)"
fi
if ! command -v apt-get >/dev/null 2>&1; then
    refuse "This script installs them only where there is apt. Please install them: $(advice)"
fi
echo "Installing Debian's package postgresql and its dependencies, without creating a cluster."
if [ "$(id -u)" = 0 ]; then
    sh "$0" --as-root
elif ! command -v sudo >/dev/null 2>&1; then
    refuse "This needs root, and there is no sudo. Please run as root: $(advice)"
elif [ -t 0 ]; then
    sudo -- sh "$0" --as-root
else
    # There is no terminal to type a password on.
    sudo -n -- sh "$0" --as-root || refuse "sudo refused. Please run as root: $(advice)"
fi

find_server || refuse "The package was installed, but initdb and postgres are in none of the expected folders."
echo "PostgreSQL's server programs: $server"
