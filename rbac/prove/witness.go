package prove

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// differ is asked where both sides are decided, and differently, as long as the
// literals can hold of a request at all. It is nil where they cannot.
func (p *proof) differ(so []literal) error {
	of := map[attribute][]literal{}
	for _, l := range so {
		of[p.of(l)] = append(of[p.of(l)], l)
	}
	values := map[attribute]solution{}
	gave := false
	for _, a := range sortedAttributes(of) {
		if a.isAddress() || a.kind == list {
			continue
		}
		s := p.solve(a, of[a])
		if !s.found && !s.gave {
			return nil // no such value
		}
		gave = gave || s.gave
		values[a] = s
	}
	req, possible := p.request(of, values)
	if !possible {
		return nil
	}
	if p.alone {
		return errOpen
	}
	if gave {
		return p.unsettle(so)
	}
	for _, path := range p.paths(of, values) {
		req.Path = path
		if d := p.confirm(req); d != nil {
			return d
		}
	}
	return p.unsettle(so)
}

// errOpen tells that a request may have literals.
var errOpen = errors.New("prove: open")

// mostUnsettled is how many times a request is looked for in vain.
const mostUnsettled = 30

// unsettle notes literals of which it is not known whether a request has them.
// It goes on for a while: the next may have one.
func (p *proof) unsettle(so []literal) error {
	if p.inVain++; p.inVain > mostUnsettled {
		return fmt.Errorf("%w: %s", ErrUndecided, p.unsettled)
	}
	if p.unsettled != "" {
		return nil
	}
	var words []string
	for _, l := range so {
		if slices.Contains(p.claim.facts, l) {
			continue
		}
		word := p.atoms[l.atom()].String()
		if l.negated() {
			word = "not " + word
		}
		words = append(words, word)
	}
	p.unsettled = strings.Join(words, ", ")
	return nil
}

func sortedAttributes(of map[attribute][]literal) []attribute {
	out := make([]attribute, 0, len(of))
	for a := range of {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b attribute) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name)) })
	return out
}

// request makes a request of values; false where addresses or lists leave none.
func (p *proof) request(of map[attribute][]literal, values map[attribute]solution) (rbac.Request, bool) {
	req := rbac.Request{
		Protocol: rbac.TCP, Source: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Remote: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 2}), 80), Method: "GET", Path: "/", Host: "h",
	}
	if p.claim.http {
		req.Protocol = rbac.HTTP
	}
	claims := map[string]any{}
	for _, a := range sortedAttributes(of) {
		v := values[a]
		switch a.kind {
		case direct, source, destination:
			ip, ok := p.solveAddress(of[a])
			if !ok {
				return req, false
			}
			switch a.kind {
			case direct:
				req.Source = ip
			case source:
				req.Remote = ip
			default:
				req.Destination = netip.AddrPortFrom(ip, req.Destination.Port())
			}
		case peer:
			if v.there {
				id, err := spiffeid.FromString(v.value)
				if err != nil { // several, or none that is one: a stranger of our own making
					id = spiffeid.RequireFromString("spiffe://stranger.invalid/ns/x/sa/x")
				}
				req.Peer.ID = id
			}
		case method:
			req.Method = v.value
		case host:
			if req.Host = v.value; !v.there {
				req.Host = "!"
			}
		case header:
			if v.there {
				if req.Headers == nil {
					req.Headers = map[string][]string{}
				}
				req.Headers[a.name] = []string{v.value}
			}
		case issuer, subject:
			if v.there && v.value != "-" {
				claims[map[attrKind]string{issuer: "iss", subject: "sub"}[a.kind]] = v.value
			}
		case port:
			n, err := strconv.ParseUint(v.value, 10, 16)
			if err == nil {
				req.Destination = netip.AddrPortFrom(req.Destination.Addr(), uint16(n))
			}
		case server:
			req.ServerName = v.value
		}
	}
	if !p.claims(of, values, claims) {
		return req, false
	}
	if len(claims) > 0 {
		req.Token = &rbac.Token{Claims: claims}
	}
	return req, true
}

// claims puts in what is a text or a list; false where a list cannot be.
func (p *proof) claims(of map[attribute][]literal, values map[attribute]solution, claims map[string]any) bool {
	for _, a := range sortedAttributes(of) {
		var value any
		switch {
		case a.kind == text && values[a].there:
			value = values[a].value
		case a.kind == list:
			var not []literal
			for _, l := range of[a] {
				if l.negated() {
					not = append(not, l)
				}
			}
			var all []any
			for _, l := range of[a] {
				if l.negated() {
					continue
				}
				s := p.solve(a, append(slices.Clone(not), l))
				if !s.found {
					return s.gave // not known: let the request be tried
				}
				all = append(all, s.value)
			}
			if all == nil {
				continue
			}
			value = all
		default:
			continue
		}
		at, keys := claims, strings.Split(a.name, "\x00")
		for _, key := range keys[:len(keys)-1] {
			inner, ok := at[key].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[key] = inner
			}
			at = inner
		}
		at[keys[len(keys)-1]] = value
	}
	return true
}

// paths lists paths that satisfy the literals of path and fold together: the
// folded one itself, and what folds to it; or the path and what it folds to.
func (p *proof) paths(of map[attribute][]literal, values map[attribute]solution) []string {
	pathLiterals, foldLiterals := of[attribute{kind: path}], of[attribute{kind: fold}]
	if len(pathLiterals)+len(foldLiterals) == 0 {
		return []string{"/"}
	}
	var bases []string
	for _, kind := range []attrKind{path, fold} {
		if s := values[attribute{kind: kind}]; s.there {
			bases = append(bases, s.value)
		}
	}
	for _, l := range slices.Concat(pathLiterals, foldLiterals) {
		if a := p.atoms[l.atom()]; a.how == exact || a.how == prefix || a.how == suffix || a.how == contains {
			bases = append(bases, a.literal, "/x"+a.literal)
		}
	}
	var out []string
	seen := map[string]bool{}
	try := func(s string) {
		if seen[s] || len(out) > 20 {
			return
		}
		seen[s] = true
		if p.all(pathLiterals, s) && p.all(foldLiterals, foldPath(s)) {
			out = append(out, s)
		}
	}
	for _, base := range bases {
		try(base)
		for _, s := range unfolded(base) {
			try(s)
			for _, s := range unfolded(s) {
				try(s)
			}
		}
	}
	return out
}

// unfolded lists paths that fold as s does, or nearly.
func unfolded(s string) []string {
	out := []string{"/%20" + s, s + ";x", s + "%20", s + "/", strings.TrimSuffix(s, "/"), s + "x", s + "/x", "/x" + s}
	for i := range len(s) {
		if b := s[i]; 'a' <= b && b <= 'z' {
			out = append(out, s[:i]+string(b-'a'+'A')+s[i+1:])
		}
		const digits = "0123456789ABCDEF"
		out = append(out, s[:i]+"%25"+string(digits[s[i]>>4])+string(digits[s[i]&15])+s[i+1:])
	}
	return out
}

// confirm asks both sides about a request.
func (p *proof) confirm(req rbac.Request) *Difference {
	got := p.matcher.Decide(interpret.FromRequest(req).Told(eval.Compared(p.set, req)))
	d := &Difference{Request: req, Shadow: p.shadow, Filter: words[outcome(got.Kind)]}
	verdict := eval.Decide(p.set, req)
	guard := !verdict.Allowed && verdict.Policy == "" && verdict.Reason != eval.NoAllowMatch
	switch {
	case len(p.claim.parts) > 1:
		d.Set = words[deny]
		if verdict.Allowed && (p.claim.http || len(verdict.Ask) == 0) {
			d.Set = words[allow]
		}
		if got.Allowed == (d.Set == words[allow]) {
			return nil
		}
		return d
	case guard && !p.claim.guarded:
		return nil
	case p.claim.parts[0].then == mark:
		if d.Set = words[allow]; verdict.Audit != "" {
			d.Set = words[mark]
		}
	default:
		if d.Set = words[allow]; guard || slices.Contains(verdict.Ask, p.provider) {
			d.Set = words[deny]
		}
	}
	if d.Filter == d.Set {
		return nil
	}
	return d
}

var words = map[outcome]string{allow: "allow", deny: "deny", mark: "mark"}
