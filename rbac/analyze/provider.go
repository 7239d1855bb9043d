package analyze

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

// askOwn are the CUSTOM policies in force that ask our own provider, by
// namespace.
func (c *checker) askOwn(policies []rbac.Policy) map[string][]rbac.Policy {
	out := map[string][]rbac.Policy{}
	if !slices.Contains(c.Providers, rbac.OwnProvider) {
		return out
	}
	for _, p := range policies {
		if p.Action == rbac.Custom && p.Provider == rbac.OwnProvider && !p.DryRun && len(p.Targets) == 0 && len(p.Rules) > 0 {
			out[p.Namespace] = append(out[p.Namespace], p)
		}
	}
	return out
}

// told tells whether our own provider is asked wherever p applies, and may tell
// the filter what a comparison comes to. That it is asked about each request that
// p is for is the author's to see to.
func (c *checker) told(p rbac.Policy) bool {
	for _, namespace := range c.reach(p.Namespace) {
		for _, asks := range c.asking[namespace] {
			covers := true
			for key, want := range asks.Selector {
				got, ok := p.Selector[key]
				covers = covers && ok && got == want
			}
			if covers {
				return true
			}
		}
	}
	return false
}
