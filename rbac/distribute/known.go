package distribute

import (
	"fmt"

	"github.com/istio-auth/istio-auth/rbac"
)

// Set is what applies to a pod, by the answer in force: that of which its Envoy
// has the filters, or is about to. It is an error where nothing is known of it.
func (f *Filters) Set(podUID string) (rbac.Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[podUID]
	if p == nil || p.current.filter == nil || p.current.set.IsZero() {
		return rbac.Set{}, fmt.Errorf("distribute: nothing is known of pod %s", podUID)
	}
	return p.current.set, nil
}
