#!/bin/bash
# package.sh DEB IMAGE: installs the Debian package on two hosts, configures each with one line, runs the very command
# lines of its units as systemd would, and pulls IMAGE (the archive of an image) on the second with the registry gone.
# Removing the package has to leave containerd's configuration as it was, byte for byte.
#
# A host is a network namespace, and the machine's own Debian under an overlay: nothing is installed on the machine.
# Needs root, and Debian's containerd, docker-registry, iproute2, runc, skopeo.
set -euo pipefail

registry=10.77.0.254:5000
image=$registry/peili/peili:v1
one_line=STATIC_BOOTSTRAP_PEERS=10.77.0.1:5001,10.77.0.2:5001
certs=/etc/containerd/certs.d
limit=30 # seconds for each step

wait_for() {
    for _ in $(seq $((limit * 10))); do
        if "$@"; then return; fi
        sleep 0.1
    done
    echo "not within $limit s: $*" >&2
    return 1
}

# --- on a host, in its root -------------------------------------------------------------------------------------------

# The environment of a unit: its own lines, then those of the environment file, which replace them.
environment() {
    sed -n 's/^Environment=//p' "$1"
    sed -n 's/^\([A-Z_]*=.*\)/\1/p' /etc/default/peili
}

# Runs the ExecStart of an installed unit, without capabilities.
start() {
    local unit=/lib/systemd/system/$1 variables command
    grep -qx 'CapabilityBoundingSet=' "$unit"
    mkdir -p -m 0700 "/var/lib/$(sed -n 's/^StateDirectory=//p' "$unit")"
    mapfile -t variables < <(environment "$unit")
    read -ra command < <(sed -n 's/^ExecStart=//p' "$unit")
    exec env -i "${variables[@]}" setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "${command[@]}"
}

checksums() {
    find /etc/containerd -type f -print0 | sort -z | xargs -0 sha256sum
}

ready() {
    [ "$(curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:9090/readyz)" = 200 ]
}

host() {
    local name=$1
    rm -rf /etc/containerd
    mkdir -p "$certs/$registry"
    printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "%s"\n' $certs >/etc/containerd/config.toml
    printf 'server = "http://%s"\n[host."http://%s"]\n' $registry $registry >"$certs/$registry/hosts.toml"
    checksums >/run/before

    dpkg --install /mnt/peili.deb
    echo "$one_line" >>/etc/default/peili
    containerd >"/mnt/$name-containerd.log" 2>&1 &
    wait_for test -S /run/containerd/containerd.sock
    (start peili-configuration.service)
    start peili.service >"/mnt/$name-peili.log" 2>&1 &
    local mirror=$!
    wait_for ready

    if [ "$name" = b ]; then
        wait_for test -e /mnt/registry-is-gone
    fi
    wait_for ctr --namespace k8s.io images pull --hosts-dir $certs $image
    touch "/mnt/$name-pulled"
    wait_for test -e /mnt/b-pulled

    kill "$mirror"
    wait "$mirror"
    dpkg --remove peili
    checksums >/run/after
    diff /run/before /run/after
    dpkg --purge peili
    [ ! -e /var/lib/peili ]
    kill %1
}

# --- on the machine ---------------------------------------------------------------------------------------------------

# Enters the root of a host: called in namespaces of its own.
enter() {
    local name=$1 work=$2 root=$2/$1/root
    mount --make-rprivate /
    mkdir -p "$work/$name/lower" "$work/$name/layers" "$root"
    mount --bind / "$work/$name/lower"
    mount -t tmpfs tmpfs "$work/$name/layers"
    mkdir "$work/$name/layers/"{upper,work}
    mount -t overlay overlay -o "lowerdir=$work/$name/lower,upperdir=$work/$name/layers/upper,workdir=$work/$name/layers/work" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs tmpfs "$root/run"
    mkdir -p "$root/var/lib/containerd"
    mount -t tmpfs tmpfs "$root/var/lib/containerd"
    mount --bind "$work" "$root/mnt"
    exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin /mnt/package.sh --host "$name"
}

join() {
    local name=$1 address=$2
    ip netns add "$ns-$name"
    ip link add "v-$name" netns "$ns-switch" type veth peer name eth0 netns "$ns-$name"
    ip -n "$ns-switch" link set "v-$name" master bridge up
    ip -n "$ns-$name" link set lo up
    ip -n "$ns-$name" address add "$address/24" dev eth0
    ip -n "$ns-$name" link set eth0 up
}

leave() {
    local name process
    for name in a b registry switch; do
        for process in $(ip netns pids "$ns-$name" 2>/dev/null); do
            kill -KILL "$process" 2>/dev/null || true
        done
        ip netns delete "$ns-$name" 2>/dev/null || true
    done
    if [ "${passed:-}" ]; then rm -rf "$work"; else echo "logs are in $work" >&2; fi
}

case ${1:-} in
--host) host "$2"; exit ;;
--enter) enter "$2" "$3" ;;
esac

[ $# = 2 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
ns=peili-package-$$
work=$(mktemp --directory)
trap leave EXIT
cp "$1" "$work/peili.deb"
cp "$0" "$work/package.sh"
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

ip netns add "$ns-switch"
ip -n "$ns-switch" link add bridge type bridge
ip -n "$ns-switch" link set bridge up
join registry "${registry%:*}"
join a 10.77.0.1
join b 10.77.0.2
cat >"$work/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "$registry"}
YAML
ip netns exec "$ns-registry" docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
upstream=$!
push() {
    ip netns exec "$ns-registry" skopeo copy --quiet --all --dest-tls-verify=false "oci-archive:$archive" "docker://$image" 2>>"$work/push.log"
}
archive=$2
wait_for push

for name in a b; do
    ip netns exec "$ns-$name" unshare --mount "$work/package.sh" --enter $name "$work" >"$work/$name.log" 2>&1 &
    declare "host_$name=$!"
done
wait_for test -e "$work/a-pulled"
kill $upstream
touch "$work/registry-is-gone"
for host in "$host_a" "$host_b"; do
    wait "$host" || { tail -n 20 "$work"/[ab].log >&2; exit 1; }
done
passed=yes
echo "installed, configured with one line, mirrored without the registry, removed without a trace"
