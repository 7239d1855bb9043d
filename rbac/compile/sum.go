package compile

import (
	"hash/maphash"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// policySum is a sum of all of a policy that decides what it is compiled to, and
// of meaning, what else decides it. The seed is of this process, so that nobody
// can look for two policies with one sum.
func policySum(seed maphash.Seed, meaning uint64, p *rbac.Policy) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	number(&h, meaning)
	word(&h, p.Namespace)
	word(&h, p.Name)
	word(&h, p.Provider)
	number(&h, uint64(p.Action))
	flag(&h, p.IstioCompat)
	number(&h, uint64(len(p.Rules)))
	for i := range p.Rules {
		r := &p.Rules[i]
		clauses(&h, r.From)
		clauses(&h, r.To)
		tests(&h, r.When)
		flag(&h, r.Expression != nil)
		if r.Expression != nil {
			expression(&h, r.Expression)
		}
	}
	return h.Sum64()
}

// sum is of what decides besides a policy what it is compiled to.
func (l *lowering) sum(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, list := range [][]spiffeid.TrustDomain{l.family, l.accepted} {
		number(&h, uint64(len(list)))
		for _, td := range list {
			word(&h, td.Name())
		}
	}
	flag(&h, l.plaintext)
	flag(&h, l.tcp)
	flag(&h, l.words)
	return h.Sum64()
}

func word(h *maphash.Hash, s string) {
	number(h, uint64(len(s)))
	h.WriteString(s)
}

func number(h *maphash.Hash, n uint64) {
	h.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), byte(n >> 32), byte(n >> 40), byte(n >> 48), byte(n >> 56)})
}

func flag(h *maphash.Hash, b bool) {
	if b {
		number(h, 1)
	} else {
		number(h, 0)
	}
}

func clauses(h *maphash.Hash, list []rbac.Clause) {
	number(h, uint64(len(list)))
	for _, c := range list {
		tests(h, c)
	}
}

func tests(h *maphash.Hash, c rbac.Clause) {
	number(h, uint64(len(c)))
	for i := range c {
		test(h, &c[i])
	}
}

func test(h *maphash.Hash, t *rbac.Test) {
	maphash.WriteComparable(h, t.Attribute)
	for _, list := range [][]rbac.Pattern{t.In, t.NotIn} {
		number(h, uint64(len(list)))
		for _, p := range list {
			maphash.WriteComparable(h, p)
		}
	}
}

func expression(h *maphash.Hash, e *rbac.Expression) {
	number(h, uint64(e.Op))
	number(h, uint64(len(e.Terms)))
	for i := range e.Terms {
		expression(h, &e.Terms[i])
	}
	test(h, &e.Test)
	maphash.WriteComparable(h, e.Comparison)
}
