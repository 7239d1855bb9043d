# The first process of the node's namespaces. It makes a machine out of them:
# file systems, cgroups, network. Then it waits, and reaps what is orphaned.
#
#   space.sh RUN NODE ADDRESS HIERARCHY...
#
# Everything here is undone by the end of this process: mounts, interfaces and
# iptables rules live in the namespaces. The standard paths are free to use
# (/etc, /opt, /run, /var/lib, /var/log) and the machine's own stay as they are.
set -eu
run=$1 node=$2 address=$3
shift 3
hostname "$node"
mount --make-rshared /

# This sysfs shows our network namespace, these cgroups our own part of the tree.
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for hierarchy; do
	name=${hierarchy#name=}
	mkdir "/sys/fs/cgroup/$name"
	case $hierarchy in name=*) hierarchy=none,$hierarchy ;; esac
	mount -t cgroup -o "$hierarchy" cgroup "/sys/fs/cgroup/$name"
	# cgroup v1 lets controllers share a hierarchy; programs look for each.
	case $name in *,*) for one in $(echo "$name" | tr , ' '); do ln -s "$name" "/sys/fs/cgroup/$one"; done ;; esac
done

# The kubelet sets these, which are the whole machine's: it gets files instead.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	file=$run/sysctl/${setting%=*}
	mkdir -p "${file%/*}"
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${setting%=*}"
done

mount -t tmpfs -o mode=755 tmpfs /run
for dir in etc opt var/lib var/log usr/libexec; do
	test -d "/$dir" || continue
	mkdir -p "$run/upper/$dir" "$run/work/$dir"
	mount -t overlay -o "lowerdir=/$dir,upperdir=$run/upper/$dir,workdir=$run/work/$dir" overlay "/$dir"
done
# An overlay cannot carry containerd's own overlays.
for dir in var/lib/containerd var/lib/kubelet var/log/pods var/log/containers; do
	mkdir -p "/$dir" "$run/data/$dir"
	mount --bind "$run/data/$dir" "/$dir"
done
mount --make-rshared /var/lib/kubelet
mkdir -p /etc/kubernetes /etc/cni/net.d
: >/etc/kubernetes/resolv.conf
echo "127.0.0.1 localhost $node" >/etc/hosts

# A pair of interfaces that leads nowhere carries the node's address.
ip link set lo up
ip link add node0 type veth peer name nowhere
ip link set nowhere up
ip address add "$address/24" dev node0
ip link set node0 up
ip route add default via "${address%.*}.1" dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

echo made
sleep infinity &
wait
