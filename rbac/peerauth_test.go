package rbac_test

import (
	"slices"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestEffectiveMode has a row for each sentence of the language about scopes.
func TestEffectiveMode(t *testing.T) {
	web := map[string]string{"app": "web"}
	peer := func(namespace, name string, mode rbac.Mode, selector map[string]string, ports map[uint16]rbac.Mode) rbac.PeerAuthentication {
		return rbac.PeerAuthentication{Namespace: namespace, Name: name, Mode: mode, Selector: selector, Ports: ports}
	}
	at := func(day int, a rbac.PeerAuthentication) rbac.PeerAuthentication {
		a.Created = time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)
		return a
	}
	strict, permissive, disable, unset := rbac.Strict, rbac.Permissive, rbac.Disable, rbac.Unset
	ports := map[uint16]rbac.Mode{80: disable, 81: unset, 82: strict}
	rows := []struct {
		name string
		all  []rbac.PeerAuthentication
		port uint16
		want rbac.Mode
	}{
		{"nothing anywhere", nil, 80, permissive},
		{"mesh", []rbac.PeerAuthentication{peer("root", "a", strict, nil, nil)}, 80, strict},
		{"mesh unset", []rbac.PeerAuthentication{peer("root", "a", unset, nil, nil)}, 80, permissive},
		{"namespace over mesh", []rbac.PeerAuthentication{peer("root", "a", strict, nil, nil), peer("shop", "a", disable, nil, nil)}, 80, disable},
		{"namespace unset inherits", []rbac.PeerAuthentication{peer("root", "a", strict, nil, nil), peer("shop", "a", unset, nil, nil)}, 80, strict},
		{"another namespace", []rbac.PeerAuthentication{peer("other", "a", strict, nil, nil)}, 80, permissive},
		{"workload over namespace", []rbac.PeerAuthentication{peer("shop", "a", strict, nil, nil), peer("shop", "b", permissive, web, nil)}, 80, permissive},
		{"workload unset inherits the namespace", []rbac.PeerAuthentication{peer("shop", "a", strict, nil, nil), peer("shop", "b", unset, web, nil)}, 80, strict},
		{"workload unset inherits the mesh", []rbac.PeerAuthentication{peer("root", "a", strict, nil, nil), peer("shop", "b", unset, web, nil)}, 80, strict},
		{"workload unset of nothing", []rbac.PeerAuthentication{peer("shop", "b", unset, web, nil)}, 80, permissive},
		{"another workload", []rbac.PeerAuthentication{peer("shop", "b", strict, map[string]string{"app": "api"}, nil)}, 80, permissive},
		{"a selector in the root namespace says nothing", []rbac.PeerAuthentication{peer("root", "b", strict, web, ports)}, 82, permissive},
		{"a selector in another namespace", []rbac.PeerAuthentication{peer("other", "b", strict, web, nil)}, 80, permissive},
		{"port over workload", []rbac.PeerAuthentication{peer("shop", "b", strict, web, ports)}, 80, disable},
		{"port unset is the workload's", []rbac.PeerAuthentication{peer("shop", "b", strict, web, ports)}, 81, strict},
		{"port unset of a workload unset is the namespace's", []rbac.PeerAuthentication{peer("shop", "a", strict, nil, nil), peer("shop", "b", unset, web, ports)}, 81, strict},
		{"port of a workload unset", []rbac.PeerAuthentication{peer("shop", "a", disable, nil, nil), peer("shop", "b", unset, web, ports)}, 82, strict},
		{"another port", []rbac.PeerAuthentication{peer("shop", "b", permissive, web, ports)}, 90, permissive},
		{"ports without a selector say nothing", []rbac.PeerAuthentication{peer("shop", "b", strict, nil, ports)}, 80, strict},
		{"of two the older", []rbac.PeerAuthentication{at(2, peer("shop", "a", permissive, nil, nil)), at(1, peer("shop", "b", strict, nil, nil))}, 80, strict},
		{"of two the older, though unset", []rbac.PeerAuthentication{peer("root", "a", disable, nil, nil), at(2, peer("shop", "a", strict, nil, nil)), at(1, peer("shop", "b", unset, nil, nil))}, 80, disable},
		{"of two meshes the older", []rbac.PeerAuthentication{at(2, peer("root", "a", permissive, nil, nil)), at(1, peer("root", "b", strict, nil, nil))}, 80, strict},
		{"of two workloads the older, with its ports", []rbac.PeerAuthentication{at(1, peer("shop", "b", strict, web, nil)), at(2, peer("shop", "a", strict, web, ports))}, 80, strict},
		{"as old: the first by name", []rbac.PeerAuthentication{at(1, peer("shop", "b", permissive, nil, nil)), at(1, peer("shop", "a", strict, nil, nil))}, 80, strict},
	}
	if got, want := len(rows), 24; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	target := rbac.Target{Namespace: "shop", Labels: map[string]string{"app": "web", "v": "1"}, RootNamespace: "root"}
	for _, row := range rows {
		if got := rbac.EffectiveMode(row.all, target, row.port); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
		slices.Reverse(row.all)
		if got := rbac.EffectiveMode(row.all, target, row.port); got != row.want {
			t.Errorf("%s, in the other order: got %v, want %v", row.name, got, row.want)
		}
	}
	inRoot := rbac.Target{Namespace: "root", Labels: web, RootNamespace: "root"}
	all := []rbac.PeerAuthentication{peer("root", "a", strict, nil, nil), peer("root", "b", disable, web, ports)}
	if got := rbac.EffectiveMode(all, inRoot, 80); got != strict {
		t.Errorf("a workload of the root namespace: got %v, want the mesh's", got)
	}
}
