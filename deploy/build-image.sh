#!/usr/bin/env bash
# Builds deploy/Dockerfile with buildah where no registry can be reached. It builds both base images from Debian's packages,
# the builder's with this machine's Rust. Needs root or sudo, apt, Rust, and network access to packages and crates.
#
#   deploy/build-image.sh [NAME]      default: copyhold
#
# The base images are reused next time; to build them again: buildah rmi copyhold-base-build copyhold-base-run
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-copyhold}
build_base=localhost/copyhold-base-build
run_base=localhost/copyhold-base-run

if [ "$(id -u)" != 0 ]; then
    # root's PATH may lack this user's Rust.
    exec sudo -- env RUST_SYSROOT="$(rustc --print sysroot)" "$0" "$@"
fi
sysroot=${RUST_SYSROOT:-$(rustc --print sysroot)}

missing=()
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "Installing ${missing[*]} with apt"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Commits an image of one layer: the folder, with the given image settings.
commit() { # folder, name, settings…
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$1" / >/dev/null
    [ "$#" -eq 2 ] || buildah config "${@:3}" "$container"
    buildah commit --quiet --rm "$container" "$2" >/dev/null
}

# Debian's minimal system with a C compiler, and this machine's Rust without its documentation.
make_build_base() {
    local root=$work/build release
    # This machine's own release, because its Rust needs the same glibc.
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates "$release" "$root" \
        http://deb.debian.org/debian >"$work/debootstrap.log" || { tail "$work/debootstrap.log" >&2; return 1; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    # This machine's trust store, which may include the authority of a proxy on the way to the crates.
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    mkdir "$root/usr/local/rust"
    cp -a "$sysroot/bin" "$sysroot/lib" "$root/usr/local/rust/"
    commit "$root" "$build_base" --env PATH=/usr/local/rust/bin:/usr/local/bin:/usr/bin:/bin
}

# The libraries that the program links, the certificates, and names for its user: no shell, no package manager.
make_run_base() {
    local root=$work/run package
    mkdir -p "$work/packages" "$root"/{etc/ssl/certs,tmp}
    (cd "$work/packages" && apt-get download -q -o APT::Sandbox::User=root libc6 libgcc-s1 ca-certificates)
    for package in "$work"/packages/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    # Does what update-ca-certificates would.
    find "$root/usr/share/ca-certificates" -name '*.crt' -print0 | sort -z | xargs -0 awk 1 >"$root/etc/ssl/certs/ca-certificates.crt"
    # Removes character-set conversions, package scripts, and documentation except the licences.
    rm -rf "$root"/usr/lib/*/gconv "$root"/usr/sbin "$root"/usr/share/{ca-certificates,lintian,man} "$root"/etc/ca-certificates
    find "$root/usr/share/doc" -type f ! -name copyright -delete
    chmod 1777 "$root/tmp"
    echo 'root:x:0:0:root:/root:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >"$root/etc/passwd"
    echo 'root:x:0:
nonroot:x:65532:' >"$root/etc/group"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    commit "$root" "$run_base"
}

for base in build run; do
    if buildah inspect --type image "localhost/copyhold-base-$base" >/dev/null 2>&1; then
        echo "Reusing base image copyhold-base-$base"
    else
        echo "Building base image copyhold-base-$base from Debian's packages"
        "make_${base}_base"
    fi
done

# --isolation chroot works where containers cannot be nested; --network host lets cargo fetch the crates.
buildah build --isolation chroot --network host --layers --pull-never \
    --build-arg BUILDER="$build_base" --build-arg RUNTIME="$run_base" \
    --file deploy/Dockerfile --tag "$name" .
buildah images "$name"
