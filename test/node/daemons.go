package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/istio-auth/istio-auth/test/child"
	"github.com/istio-auth/istio-auth/test/kubeapi/pki"
)

// The node's network. Nothing of it leaves the namespaces.
const (
	nodeIP   = "172.30.0.2"
	url      = "https://" + nodeIP + ":6443"
	pods     = "10.244.0.0/24"
	services = "10.96.0.0/16"
	service  = "10.96.0.1" // of the API server itself
)

// containerdConfig is for containerd 1.6 and 1.7; 2.x converts it as it starts.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[1]s"
  # Without CAP_SYS_RESOURCE no score can be lowered, and every sandbox asks for
  # -998: runc would end with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "%[2]s/usr/sbin/runc"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[2]s/usr/lib/cni"
    conf_dir = "%[3]s/cni"
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + pods + `"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}
}]}
`

// kubeletConfig: the disk of a developer may be nearly full, which is not the
// test's matter; and Kubernetes 1.35 and later refuse cgroup v1 unless asked.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: /etc/kubernetes/resolv.conf
clusterDomain: ` + domain + `
clusterDNS: [` + nodeIP + `]
tlsCertFile: %[1]s/kubelet.crt
tlsPrivateKeyFile: %[1]s/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]s/ca.crt}}
authorization: {mode: Webhook}
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.available: 0%%, imagefs.inodesFree: 0%%}
nodeStatusUpdateFrequency: 5s
syncFrequency: 5s
`

// proxyConfig: conntrack's sizes are the machine's, so they are left alone.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: %[1]s/proxy.conf}
clusterCIDR: ` + pods + `
hostnameOverride: ` + Name + `
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 0s}
`

// files writes configurations, certificates and kubeconfigs, and makes the
// client.
func (n *Node) files(pause string) error {
	authority, err := pki.New("node")
	if err != nil {
		return err
	}
	private, public, err := pki.TokenKey()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": authority.PEM, "token.key": private, "token.pub": public,
		"containerd.toml": fmt.Appendf(nil, containerdConfig, pause, n.root, n.run),
		"cni/10.conflist": []byte(cniConfig),
		"kubelet.yaml":    fmt.Appendf(nil, kubeletConfig, n.run),
		"proxy.yaml":      fmt.Appendf(nil, proxyConfig, n.run),
	}
	kubelet := "system:node:" + Name
	for name, who := range map[string]pki.Name{
		"api":     {User: "kube-apiserver", DNS: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"}, IPs: []string{nodeIP, service, "127.0.0.1"}},
		"kubelet": {User: kubelet, Groups: []string{"system:nodes"}, DNS: []string{Name}, IPs: []string{nodeIP}},
		"admin":   {User: "admin", Groups: []string{"system:masters"}},
	} {
		pair, err := authority.Issue(who)
		if err != nil {
			return err
		}
		files[name+".crt"], files[name+".key"] = pair.Cert, pair.Key
	}
	for name, who := range map[string][]string{
		"admin.conf":     {"admin", "system:masters"},
		"kubelet.conf":   {kubelet, "system:nodes"},
		"kcm.conf":       {"system:kube-controller-manager"},
		"scheduler.conf": {"system:kube-scheduler"},
		"proxy.conf":     {"system:kube-proxy"},
	} {
		if files[name], err = authority.Kubeconfig(url, who[0], who[1:]...); err != nil {
			return err
		}
	}
	for name, data := range files {
		path := filepath.Join(n.run, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("writing the node's files: %w", err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("writing the node's files: %w", err)
		}
	}
	n.config = &rest.Config{
		Host: url, QPS: -1, Dial: n.Dial,
		TLSClientConfig: rest.TLSClientConfig{CAData: authority.PEM, CertData: files["admin.crt"], KeyData: files["admin.key"]},
	}
	n.client, err = kubernetes.NewForConfig(n.config)
	if err != nil {
		return fmt.Errorf("making the node's client: %w", err)
	}
	return nil
}

// controlPlane starts containerd, etcd and the API server, none of which needs
// another to be there first.
func (n *Node) controlPlane() error {
	in := func(name string) string { return filepath.Join(n.run, name) }
	return errors.Join(
		n.start("containerd", "--config", in("containerd.toml")),
		n.start("etcd", "--data-dir", in("etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380"),
		n.start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range="+services,
			"--advertise-address="+nodeIP, "--secure-port=6443",
			"--tls-cert-file="+in("api.crt"), "--tls-private-key-file="+in("api.key"), "--client-ca-file="+in("ca.crt"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-signing-key-file="+in("token.key"), "--service-account-key-file="+in("token.pub"),
			"--kubelet-client-certificate="+in("admin.crt"), "--kubelet-client-key="+in("admin.key"),
			"--kubelet-certificate-authority="+in("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"),
	)
}

// others starts what needs the API server.
func (n *Node) others() error {
	in := func(name string) string { return filepath.Join(n.run, name) }
	same := func(file string) []string {
		path := in(file)
		return []string{"--kubeconfig=" + path, "--authentication-kubeconfig=" + path, "--authorization-kubeconfig=" + path, "--leader-elect=false"}
	}
	return errors.Join(
		n.start("kubelet", "--config="+in("kubelet.yaml"), "--kubeconfig="+in("kubelet.conf"), "--node-ip="+nodeIP, "--hostname-override="+Name),
		n.start("kube-controller-manager", append(same("kcm.conf"), "--use-service-account-credentials",
			"--service-account-private-key-file="+in("token.key"), "--root-ca-file="+in("ca.crt"))...),
		n.start("kube-scheduler", same("scheduler.conf")...),
		n.start("kube-proxy", "--config="+in("proxy.yaml")),
	)
}

// start starts a daemon inside. What it writes goes to a file in the folder
// logs too.
func (n *Node) start(name string, args ...string) error {
	if err := os.MkdirAll(filepath.Join(n.run, "logs"), 0o700); err != nil {
		return fmt.Errorf("making the folder of the logs: %w", err)
	}
	log, err := os.Create(filepath.Join(n.run, "logs", name+".log"))
	if err != nil {
		return fmt.Errorf("making the log of %s: %w", name, err)
	}
	// Not the caller's context: a daemon ends with the node.
	cmd := n.Command(context.Background(), append([]string{name}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := child.Start(cmd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	n.daemons = append(n.daemons, daemon{name, p, log})
	return nil
}

// A daemon is one of the node's programs.
type daemon struct {
	name    string
	process *child.Process
	log     *os.File
}

// reference is the name of the image in an archive of ours.
func reference(path string) (string, error) {
	text, err := member(path, "index.json")
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", fmt.Errorf("reading the index of %s: %w", path, err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d images, want one", path, len(index.Manifests))
	}
	name := index.Manifests[0].Annotations["io.containerd.image.name"]
	if !strings.Contains(name, ":") {
		return "", fmt.Errorf("%s: its image has no name", path)
	}
	return name, nil
}
