package parse

import (
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// peer reads a PeerAuthentication.
func (d *Document) peer() (rbac.PeerAuthentication, error) {
	spec := &securityv1beta1.PeerAuthentication{}
	if err := d.Spec().decode(spec); err != nil {
		return rbac.PeerAuthentication{}, err
	}
	if err := d.noAnnotations(); err != nil {
		return rbac.PeerAuthentication{}, err
	}
	a := rbac.PeerAuthentication{
		Namespace: d.Namespace, Name: d.Name, Created: d.Created,
		Selector: spec.GetSelector().GetMatchLabels(), Mode: modeOf(spec.GetMtls()),
	}
	if err := d.at.labels("spec.selector.matchLabels", a.Selector); err != nil {
		return rbac.PeerAuthentication{}, err
	}
	if len(spec.GetPortLevelMtls()) == 0 {
		return a, nil
	}
	if len(a.Selector) == 0 {
		return rbac.PeerAuthentication{}, d.at.refuse(byPort, "conflict", "ports are those of workloads: a selector must say of which")
	}
	if err := d.at.limit(byPort, len(spec.GetPortLevelMtls()), maxPorts); err != nil {
		return rbac.PeerAuthentication{}, err
	}
	a.Ports = map[uint16]rbac.Mode{}
	for port, mtls := range spec.GetPortLevelMtls() {
		a.Ports[uint16(port)] = modeOf(mtls)
	}
	return a, nil
}

func modeOf(m *securityv1beta1.PeerAuthentication_MutualTLS) rbac.Mode {
	switch m.GetMode() {
	case securityv1beta1.PeerAuthentication_MutualTLS_DISABLE:
		return rbac.Disable
	case securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE:
		return rbac.Permissive
	case securityv1beta1.PeerAuthentication_MutualTLS_STRICT:
		return rbac.Strict
	}
	return rbac.Unset
}
