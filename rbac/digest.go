package rbac

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Digest is equal for two sets that decide alike by the same names: it covers
// the trust domains and the policies, but not their selectors, which have done
// their work. The zero Set's is no other Set's.
func (s Set) Digest() [32]byte {
	d := digester{sha256.New()}
	d.text("istio-auth rbac set 2", s.domains.Own.Name())
	for _, list := range [][]string{names(s.domains.Aliases), names(s.domains.Foreign), s.providers} {
		d.count(len(list))
		d.text(list...)
	}
	d.flags(s.plaintext, s.trial != nil)
	for _, policies := range [][]Policy{s.enforced, s.trial} {
		d.count(len(policies))
		for _, p := range policies {
			d.policy(p)
		}
	}
	d.count(len(s.tokens))
	for _, t := range s.tokens {
		d.token(t)
	}
	return [32]byte(d.Sum(nil))
}

func names[N interface{ Name() string }](domains []N) []string {
	list := make([]string, len(domains))
	for i, td := range domains {
		list[i] = td.Name()
	}
	return list
}

// A digester writes values so that different ones give different bytes: each
// string and each list comes after its length.
type digester struct{ hash.Hash }

func (d digester) count(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}

func (d digester) flags(flags ...bool) {
	for _, f := range flags {
		if f {
			d.count(1)
		} else {
			d.count(0)
		}
	}
}

func (d digester) text(ss ...string) {
	for _, s := range ss {
		d.count(len(s))
		d.Write([]byte(s))
	}
}

func (d digester) policy(p Policy) {
	d.text(p.Namespace, p.Name, p.Action.String(), p.Provider)
	d.flags(p.DryRun, p.IstioCompat)
	d.count(len(p.Rules))
	for _, rule := range p.Rules {
		for _, clauses := range [][]Clause{rule.From, rule.To, {rule.When}} {
			d.count(len(clauses))
			for _, clause := range clauses {
				d.count(len(clause))
				for _, test := range clause {
					d.test(test)
				}
			}
		}
		d.flags(rule.Expression != nil)
		if rule.Expression != nil {
			d.expression(*rule.Expression)
		}
	}
}

func (d digester) attribute(a Attribute) {
	d.count(int(a.kind))
	d.text(a.name)
}

func (d digester) test(t Test) {
	d.attribute(t.Attribute)
	for _, list := range [][]Pattern{t.In, t.NotIn} {
		d.count(len(list))
		for _, p := range list {
			d.count(int(p.kind))
			d.count(int(p.first))
			d.count(int(p.second.kind))
			d.text(p.text, p.second.text, p.network.String())
		}
	}
}

// expression leaves out the source, which decides nothing.
func (d digester) expression(e Expression) {
	d.count(int(e.Op))
	d.count(len(e.Terms))
	for _, term := range e.Terms {
		d.expression(term)
	}
	d.test(e.Test)
	d.attribute(e.Comparison.Left)
	d.attribute(e.Comparison.Right)
	d.count(int(e.Comparison.How))
	d.flags(e.Comparison.Not)
	d.text(e.Comparison.Lead, e.Comparison.Trail)
}

func (d digester) token(t TokenRule) {
	d.text(t.Issuer, t.Keys, t.KeysURI, t.PayloadHeader)
	d.flags(t.Forward)
	d.count(len(t.Audiences))
	d.text(t.Audiences...)
	d.count(len(t.Locations))
	for _, l := range t.Locations {
		d.text(l.Header, l.Prefix, l.Param, l.Cookie)
	}
	d.count(len(t.ClaimHeaders))
	for _, h := range t.ClaimHeaders {
		d.text(h.Header, h.Claim)
	}
}
