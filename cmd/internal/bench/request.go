package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/sds/sdstest"
)

const (
	fewPolicies  = 10
	manyPolicies = 10_000
	// policyRounds is how often each side is measured, in turns: the least
	// counts.
	policyRounds = 9
	// policySeed makes the policies.
	policySeed = 1
)

// benchShapes are those for which ten thousand policies are measured. Dense is
// not among them: Envoy would take a gigabyte.
var benchShapes = []rbactest.Shape{rbactest.ByPrincipal, rbactest.ByPrefix, rbactest.ByNamespace, rbactest.ByClaims, rbactest.Rich}

// envoyRequest is the processor time of Envoy's worker for a request, with ten
// thousand policies against ten: for each shape of policies, with the identity
// in a header over plaintext, and with mutual TLS; and the linear form beside
// it.
func envoyRequest(ctx context.Context, emit func(Figure)) error {
	authority, err := sdstest.NewAuthority(rbactest.TrustDomain)
	if err != nil {
		return err
	}
	for _, mode := range []string{"mtls", "header"} {
		for _, shape := range benchShapes {
			b := requestBench{shape: shape, mode: mode}
			if err := b.run(ctx, authority, emit); err != nil {
				return fmt.Errorf("%s by %s: %w", shape, mode, err)
			}
		}
	}
	return nil
}

// A requestBench measures one shape with one kind of identity.
type requestBench struct {
	shape rbactest.Shape
	mode  string // "mtls" or "header"
}

// A side is one Envoy with its policies, and the requests for it.
type side struct {
	*sidecar
	set        rbac.Set
	last, none rbac.Request
}

func (b requestBench) run(ctx context.Context, authority *sdstest.Authority, emit func(Figure)) error {
	few, err := b.start(ctx, authority, fewPolicies)
	if err != nil {
		return err
	}
	defer few.stop()
	many, err := b.start(ctx, authority, manyPolicies)
	if err != nil {
		return err
	}
	defer many.stop()
	before, err := many.memory()
	if err != nil {
		return err
	}
	began, err := many.usedByAll()
	if err != nil {
		return err
	}
	size, took, err := many.load("tree", compile.HTTP)
	if err != nil {
		return err
	}
	loading, err := many.usedByAll()
	if err != nil {
		return err
	}
	after, err := many.memory()
	if err != nil {
		return err
	}
	if _, _, err = few.load("tree", compile.HTTP); err != nil {
		return err
	}
	name := fmt.Sprintf("envoy-request-%s-%s", b.shape, b.mode)
	for _, which := range []string{"last", "none"} {
		f, err := compareSides(few, many, which, 2000)
		if err != nil {
			return err
		}
		f.Name, f.Note = name+"-"+which, fmt.Sprintf("a request that %s; %d policies against %d, the least of %d runs in turns", map[string]string{"last": "the last policy allows", "none": "nothing allows"}[which], manyPolicies, fewPolicies, policyRounds)
		emit(f)
	}
	emit(Figure{Name: name + "-bytes", Value: float64(size) / manyPolicies, Unit: "B/policy", Note: "the filter as Envoy gets it"})
	emit(Figure{Name: name + "-load", Value: milliseconds(took), Unit: "ms", Note: fmt.Sprintf("until Envoy has acknowledged %d policies; %.0f ms of its processor time", manyPolicies, milliseconds(loading-began))})
	emit(Figure{Name: name + "-memory", Value: after - before, Unit: "MiB", Note: fmt.Sprintf("that Envoy has more with %d policies", manyPolicies)})
	if _, _, err = many.load("linear", compile.Linear); err != nil {
		return err
	}
	linear, err := many.least("last", 200, 3)
	if err != nil {
		return err
	}
	emit(Figure{Name: name + "-linear", Value: microseconds(linear), Unit: "us CPU", Note: fmt.Sprintf("the linear form of the same %d policies", manyPolicies)})
	return nil
}

// start runs an Envoy for n policies of the shape; it has none of them yet.
func (b requestBench) start(ctx context.Context, authority *sdstest.Authority, n int) (*side, error) {
	target := rbactest.Target()
	policies := b.shape.Policies(n, policySeed)
	s := &side{}
	s.last, s.none = b.shape.Requests(n, policySeed)
	if b.mode == "header" {
		target.Plaintext = true
		policies = identityInHeader(policies)
	}
	s.set = rbac.Select(policies, target)
	var err error
	s.sidecar, err = startSidecar(ctx, authority, sidecarOptions{plaintext: b.mode == "header", token: s.last.Token})
	return s, err
}

// load makes Envoy enforce the set in one of the compiled forms.
func (s *side) load(version string, form func(rbac.Set) (*anypb.Any, error)) (size int, took time.Duration, err error) {
	filter, err := form(s.set)
	if err != nil {
		return 0, 0, err
	}
	took, err = s.enforce(version, filter)
	return len(filter.Value), took, err
}

// compareSides measures both sides in turns.
func compareSides(few, many *side, which string, requests int) (Figure, error) {
	var least [2]time.Duration
	for range policyRounds {
		for i, s := range []*side{few, many} {
			used, err := s.least(which, requests, 1)
			if err != nil {
				return Figure{}, err
			}
			if least[i] == 0 || used < least[i] {
				least[i] = used
			}
		}
	}
	f := Figure{Value: microseconds(least[1]), Unit: "us CPU"}
	return f.against(microseconds(least[0])), nil
}

// least is the least processor time a request of several runs, over four
// connections in turn.
func (s *side) least(which string, requests, runs int) (time.Duration, error) {
	req, want := s.last, 200
	if which == "none" {
		req, want = s.none, 403
	}
	text := wireOf(req)
	const connections = 4
	var callers []*caller
	for range connections {
		c, err := s.dial(req.Peer.ID)
		if err != nil {
			return 0, err
		}
		defer c.conn.Close()
		callers = append(callers, c)
	}
	send := func(n int) error {
		for i := range n {
			code, err := callers[i%connections].call(text)
			if err != nil {
				return err
			}
			if code != want {
				return fmt.Errorf("the answer is %d, want %d: %q", code, want, text)
			}
		}
		return nil
	}
	if err := send(100); err != nil {
		return 0, err
	}
	var least time.Duration
	for range runs {
		before, err := s.used()
		if err != nil {
			return 0, err
		}
		if err := send(requests); err != nil {
			return 0, err
		}
		after, err := s.used()
		if err != nil {
			return 0, err
		}
		if each := (after - before) / time.Duration(requests); least == 0 || each < least {
			least = each
		}
	}
	if least <= 0 {
		return 0, errors.New("the worker has used no time")
	}
	return least, nil
}

// identityHeader is where a peer's ID stands where there is no certificate.
const identityHeader = "x-id"

// wireOf is a request as it goes over a connection.
func wireOf(r rbac.Request) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: %s\r\n%s: %s\r\n", r.Method, r.Path, r.Host, r.Remote, identityHeader, strings.TrimPrefix(r.Peer.ID.String(), "spiffe://"))
	for name, values := range r.Headers {
		for _, v := range values {
			fmt.Fprintf(&text, "%s: %s\r\n", name, v)
		}
	}
	if r.Method == "POST" || r.Method == "PUT" {
		text.WriteString("Content-Length: 0\r\n")
	}
	text.WriteString("\r\n")
	return text.String()
}

// identityInHeader asks the header for what the policies ask the certificate.
func identityInHeader(policies []rbac.Policy) []rbac.Policy {
	header, err := rbac.HeaderAttr(identityHeader)
	if err != nil {
		panic(err)
	}
	patterns := func(kind rbac.AttributeKind, list []rbac.Pattern) (out []rbac.Pattern) {
		for _, p := range list {
			text := p.String()
			if kind == rbac.Namespace {
				if p.Kind() == rbac.Suffix {
					continue // has no like in a header
				}
				text = rbactest.TrustDomain.Name() + "/ns/" + text
				if p.Kind() == rbac.Exact {
					text += "/*"
				}
			}
			q, err := rbac.ParseValue(header, text, "")
			if err != nil {
				panic(err)
			}
			out = append(out, q)
		}
		return out
	}
	for i := range policies {
		for j := range policies[i].Rules {
			for _, clause := range policies[i].Rules[j].From {
				for k, test := range clause {
					if test.Attribute.OfPeer() {
						kind := test.Attribute.Kind()
						clause[k] = rbac.Test{Attribute: header, In: patterns(kind, test.In), NotIn: patterns(kind, test.NotIn)}
					}
				}
			}
		}
	}
	return policies
}
