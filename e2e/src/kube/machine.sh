# A machine: net, mount, pid, uts, ipc and cgroup namespaces with an /etc, /var, /opt and /run of
# its own, and services that are restarted when they end. The first call joins the cgroups and makes
# the namespaces; the second is PID 1 in them.
#
# Environment: NAME, FOLDER (the machine's files), LOGS, PROGRAMS (the Kubernetes commands), RUNTIME
# (the folder of containerd's programs; empty on a machine without), HIERARCHIES (cgroup v1), CGROUPS.
set -e

if [ $# -eq 0 ]; then
    for cgroup in $CGROUPS; do echo $$ > "$cgroup/cgroup.procs"; done
    exec unshare --mount --pid --fork --uts --ipc --cgroup --kill-child bash "$0" inside
fi

mount --make-rprivate /
root=$FOLDER/root
mkdir -p "$root" "$FOLDER"/etc "$FOLDER"/etc-work "$FOLDER"/opt/runtime \
    "$FOLDER"/var/{lib/containerd,lib/kubelet,log,tmp,cache}
ln -sfn /run "$FOLDER/var/run"

# The machine's root is the host's root file system without what else is mounted below it.
mount --bind / "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t devtmpfs devtmpfs "$root/dev"
mkdir -p "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o mode=620,ptmxmode=666,newinstance devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
for hierarchy in $HIERARCHIES; do
    point=$root/sys/fs/cgroup/${hierarchy#name=}
    mkdir "$point"
    case $hierarchy in
        name=*) mount -t cgroup -o "none,$hierarchy" cgroup "$point" ;;
        *) mount -t cgroup -o "$hierarchy" cgroup "$point" ;;
    esac
done
mount -t overlay -o "lowerdir=/etc,upperdir=$FOLDER/etc,workdir=$FOLDER/etc-work" overlay "$root/etc"
mount --bind "$FOLDER/var" "$root/var"
mount --bind "$LOGS" "$root/var/log"
mount --bind "$FOLDER/opt" "$root/opt"
[ -z "$RUNTIME" ] || mount --bind "$RUNTIME" "$root/opt/runtime"
mount --bind "$PROGRAMS" "$root/usr/local/bin"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cd "$root"
pivot_root . mnt
cd /
umount -l /mnt

# The kubelet demands these settings of the kernel. The machine sees them set; the host's stay.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/${setting%%=*}
    mkdir -p "${file%/*}"
    echo "${setting##*=}" > "$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done
mount --make-rshared /
hostname "$NAME"
echo 1 > /proc/sys/net/ipv4/ip_forward
cat /etc/kubernetes/pki/ca.crt >> /etc/ssl/certs/ca-certificates.crt

# run NAME COMMAND...: keeps a service running. Its pid is in /run/NAME.pid.
run() {
    local name=$1
    shift
    while :; do
        "$@" >> "/var/log/$name.log" 2>&1 &
        echo $! > "/run/$name.pid"
        wait $! || true
        echo "--- $name ended $(date +%T.%N)" >> "/var/log/$name.log"
        sleep 1
    done &
}
. /etc/peili-services
touch /var/booted
wait
