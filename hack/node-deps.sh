#!/bin/sh
# Fetches the container runtime for test/node into .tools/node, on Debian and
# its kin: packages are unpacked, not installed, so that nothing of the machine
# changes. Their versions are those of the release.
set -eu
cd "$(dirname "$0")/.."
to=.tools/node/root
test ! -e "$to/.complete" || exit 0
for tool in apt-get dpkg; do
	command -v "$tool" >/dev/null || {
		echo "node-deps: needs $tool: on other systems unpack containerd, runc, the CNI plugins and iptables into $to, then touch $to/.complete" >&2
		exit 1
	}
done
# iptables comes with its libraries, since the machine may have neither.
packages="containerd runc libseccomp2 containernetworking-plugins
	iptables libip4tc2 libip6tc2 libxtables12 libnftnl11 libmnl0 libnetfilter-conntrack3 libnfnetlink0"
debs=$(mktemp -d)
trap 'rm -rf "$debs"' EXIT
chmod 755 "$debs"
fetch() { (cd "$debs" && apt-get download -qq -o APT::Sandbox::User=root $packages); }
fetch 2>/dev/null || { # no package lists yet, or old ones
	apt-get update -qq
	fetch
}
rm -rf "$to"
mkdir -p "$to"
for deb in "$debs"/*.deb; do dpkg -x "$deb" "$to"; done
# The names that the packages' installation would have given.
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
	ln -s xtables-nft-multi "$to/usr/sbin/$name"
done
touch "$to/.complete"
