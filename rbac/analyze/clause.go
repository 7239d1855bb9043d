package analyze

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A class of peers: those of one trust domain and its aliases, or those without
// a certificate. What rules ask of trust domains is the same for all of a class.
type class struct {
	domains rbac.Domains // of the class alone; zero without certificate
	ours    bool         // namespaces and service accounts are
}

func (c *checker) classesOf() []class {
	classes := []class{{rbac.Domains{Own: c.TrustDomain, Aliases: c.Aliases}, true}}
	for _, td := range c.Foreign {
		classes = append(classes, class{rbac.Domains{Own: td}, false})
	}
	if c.Plaintext {
		classes = append(classes, class{})
	}
	return classes
}

// A reading says how answers are taken: by the action, and as Istio or not.
type reading struct {
	allow bool // a test must be satisfied; otherwise that it may be is enough
	istio bool
}

// absent tells whether a test without the attribute is taken as satisfied.
func (r reading) absent(t rbac.Test) bool { return len(t.In) == 0 && (!r.allow || r.istio) }

// contradicts tells that no request whose attributes can be told satisfies all
// tests.
func (c *checker) contradicts(r reading, tests rbac.Clause) bool {
	var peer rbac.Clause
	byAttribute := map[rbac.Attribute][]rbac.Test{}
	for _, t := range tests {
		if t.Attribute.OfPeer() {
			peer = append(peer, t)
			continue
		}
		byAttribute[t.Attribute] = append(byAttribute[t.Attribute], t)
	}
	for a, list := range byAttribute {
		kind := a.Kind()
		if !r.present(kind, list, !several(kind)) && (always(kind) || !r.absentAll(list)) {
			return true
		}
	}
	return !slices.ContainsFunc(c.classes, func(of class) bool { return of.satisfies(r, peer) })
}

func (r reading) absentAll(tests []rbac.Test) bool {
	return !slices.ContainsFunc(tests, func(t rbac.Test) bool { return !r.absent(t) })
}

// present tells that a value, as far as is known, satisfies tests of one kind of
// attribute. Single says that there is one value.
func (r reading) present(kind rbac.AttributeKind, tests []rbac.Test, single bool) bool {
	var alive [][]rbac.Pattern
	for _, t := range tests {
		if matchesAll(kind, t.NotIn) {
			return false
		}
		if len(t.In) == 0 {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(t.In), func(p rbac.Pattern) bool {
			return slices.ContainsFunc(tests, func(u rbac.Test) bool { return coveredBy(u.NotIn, p) })
		})
		if len(left) == 0 {
			return false
		}
		alive = append(alive, left)
	}
	for i, list := range alive {
		for _, other := range alive[:i] {
			if single && !slices.ContainsFunc(list, func(p rbac.Pattern) bool {
				return slices.ContainsFunc(other, func(q rbac.Pattern) bool { return !disjoint(p, q) })
			}) {
				return false
			}
		}
	}
	return true
}

// satisfies tells that a peer of the class, as far as is known, satisfies tests
// of peers.
func (of class) satisfies(r reading, tests rbac.Clause) bool {
	if of.domains.Own.IsZero() {
		return r.absentAll(tests)
	}
	names := map[rbac.AttributeKind][]rbac.Test{} // of namespaces and accounts
	var principals []rbac.Test
	for _, t := range tests {
		switch kind := t.Attribute.Kind(); kind {
		case rbac.TrustDomain:
			if !of.domainSatisfies(t) {
				return false
			}
		case rbac.Principal:
			expanded := rbac.Test{Attribute: t.Attribute, In: of.expand(t.In), NotIn: of.expand(t.NotIn)}
			if len(t.In) > 0 && len(expanded.In) == 0 {
				return false
			}
			principals = append(principals, expanded)
		case rbac.Namespace, rbac.ServiceAccount:
			if !of.ours {
				if !r.absent(t) {
					return false
				}
				continue
			}
			names[kind] = append(names[kind], t)
		case rbac.AnyNamespace:
			names[rbac.Namespace] = append(names[rbac.Namespace], t)
		case rbac.AnyServiceAccount:
			names[rbac.ServiceAccount] = append(names[rbac.ServiceAccount], t)
		}
	}
	for kind, list := range names {
		if !r.present(kind, list, true) {
			return false
		}
	}
	// A principal that is written whole has a namespace and an account.
	for i := range principals {
		had := len(principals[i].In)
		principals[i].In = slices.DeleteFunc(principals[i].In, func(p rbac.Pattern) bool { return !agrees(p, names) })
		if had > 0 && len(principals[i].In) == 0 {
			return false
		}
	}
	return r.present(rbac.Principal, principals, true)
}

func (of class) expand(patterns []rbac.Pattern) []rbac.Pattern {
	var list []rbac.Pattern
	for _, p := range patterns {
		list = append(list, of.domains.Expand(p)...)
	}
	return list
}

// domainSatisfies is exact: the names of the class are known.
func (of class) domainSatisfies(t rbac.Test) bool {
	return (len(t.In) == 0 || of.isCalled(t.In)) && !of.isCalled(t.NotIn)
}

func (of class) isCalled(patterns []rbac.Pattern) bool {
	return slices.ContainsFunc(patterns, func(p rbac.Pattern) bool {
		return slices.ContainsFunc(of.domains.Family(), func(td spiffeid.TrustDomain) bool { return p.Match(td.Name()) })
	})
}

// agrees tells that a principal, where it is written whole, satisfies tests of
// its namespace and account.
func agrees(p rbac.Pattern, names map[rbac.AttributeKind][]rbac.Test) bool {
	if p.Kind() != rbac.Exact {
		return true
	}
	parts := strings.Split(p.Text(), "/")
	if len(parts) != 5 { // <trust domain>/ns/<namespace>/sa/<account>
		return true
	}
	namespace, account := parts[2], parts[4]
	for kind, tests := range names {
		match := func(q rbac.Pattern) bool {
			if kind == rbac.ServiceAccount {
				return q.MatchPair(namespace, account)
			}
			return q.Match(namespace)
		}
		for _, t := range tests {
			if len(t.In) > 0 && !slices.ContainsFunc(t.In, match) || slices.ContainsFunc(t.NotIn, match) {
				return false
			}
		}
	}
	return true
}

// isTrue tells that every request satisfies, or may satisfy, all tests. On TCP
// whatever is of HTTP may be.
func (c *checker) isTrue(tests rbac.Clause, tcp bool) bool {
	return !slices.ContainsFunc(tests, func(t rbac.Test) bool {
		kind := t.Attribute.Kind()
		switch {
		case tcp && t.Attribute.OfHTTP():
			return false
		case t.Attribute.OfPeer():
			return slices.ContainsFunc(c.classes, func(of class) bool { return !of.allSatisfy(t) })
		}
		return len(t.NotIn) > 0 || len(t.In) > 0 && !(always(kind) && matchesAll(kind, t.In))
	})
}

// allSatisfy tells that every peer of the class satisfies, or may satisfy, a
// test.
func (of class) allSatisfy(t rbac.Test) bool {
	if of.domains.Own.IsZero() {
		return len(t.In) == 0
	}
	switch kind := t.Attribute.Kind(); kind {
	case rbac.TrustDomain:
		return of.domainSatisfies(t)
	case rbac.Principal:
		return len(of.expand(t.NotIn)) == 0 && (len(t.In) == 0 || of.allCalled(of.expand(t.In)))
	case rbac.Namespace, rbac.ServiceAccount:
		if !of.ours {
			return len(t.In) == 0
		}
	}
	return len(t.NotIn) == 0 && (len(t.In) == 0 || matchesAll(t.Attribute.Kind(), t.In))
}

// allCalled tells that patterns of IDs match every workload of the class.
func (of class) allCalled(patterns []rbac.Pattern) bool {
	if matchesAll(rbac.Principal, patterns) {
		return true
	}
	return !slices.ContainsFunc(of.domains.Family(), func(td spiffeid.TrustDomain) bool {
		return !slices.ContainsFunc(patterns, func(p rbac.Pattern) bool {
			return p.Kind() == rbac.Prefix && strings.HasPrefix(td.Name()+"/ns/", p.Text())
		})
	})
}
