package manager

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/jwks"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// Keys says how the key sets of end users' issuers are fetched.
type Keys struct {
	// Refresh is the time between two fetches of a key set.
	Refresh daemon.Duration `json:"refresh"`
	// AllowNetworks are networks that are asked although they are not public, as
	// 10.0.0.0/8. Whoever may write a RequestAuthentication can then have any
	// address in them asked.
	AllowNetworks []string `json:"allowNetworks,omitempty"`
	// CAFile has the roots that vouch for issuers' servers, in PEM. Empty: the
	// system's.
	CAFile string `json:"caFile,omitempty"`
}

// Times between two fetches.
const (
	minRefresh = 10 * time.Second
	maxRefresh = 6 * time.Hour
)

func (k Keys) validate(p *daemon.Problems, field string) {
	if d := time.Duration(k.Refresh); d < minRefresh || d > maxRefresh {
		p.Addf(field+".refresh", "%v: want %v to %v", d, minRefresh, maxRefresh)
	}
	for i, text := range k.AllowNetworks {
		if prefix, err := netip.ParsePrefix(text); err != nil || prefix != prefix.Masked() {
			p.Addf(fmt.Sprintf("%s.allowNetworks[%d]", field, i), "%q: want a network as 10.0.0.0/8", text)
		} else if linkLocal(prefix) {
			p.Addf(fmt.Sprintf("%s.allowNetworks[%d]", field, i), "%s has link-local addresses, from which clouds give away credentials", text)
		}
	}
	p.Path(field+".caFile", k.CAFile, false)
}

// linkLocal tells whether a network has addresses of the link alone (RFC 3927,
// RFC 4291).
func linkLocal(network netip.Prefix) bool {
	for _, text := range []string{"169.254.0.0/16", "fe80::/10"} {
		if network.Overlaps(netip.MustParsePrefix(text)) {
			return true
		}
	}
	return false
}

// keeper fetches as k says.
func (k Keys) keeper(d Deps) (*jwks.Keeper, error) {
	config := jwks.FetcherConfig{}
	for _, text := range k.AllowNetworks {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		config.Allow = append(config.Allow, prefix)
	}
	if k.CAFile != "" {
		pem, err := os.ReadFile(k.CAFile)
		if err != nil {
			return nil, fmt.Errorf("keys.caFile: %w", err)
		}
		config.Roots = x509.NewCertPool()
		if !config.Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("keys.caFile: no certificate in %s", k.CAFile)
		}
	}
	return &jwks.Keeper{Source: jwks.NewFetcher(config), Log: d.Log, Every: time.Duration(k.Refresh)}, nil
}

// objects are what was read last, to which the issuers' keys are added as they
// come.
type objects struct {
	keeper *jwks.Keeper

	mu       sync.Mutex // guards what follows, and keeps publications in order
	known    bool
	first    time.Time // when the first were read
	settled  bool      // the first keys have come, or have been waited for
	policies []rbac.Policy
	requests []rbac.RequestAuthentication
}

// take holds what was read, and says which key sets are in use.
func (o *objects) take(policies []rbac.Policy, requests []rbac.RequestAuthentication) {
	o.keeper.Use(uses(requests))
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.known {
		o.first = time.Now()
	}
	o.known, o.policies, o.requests = true, policies, requests
}

// firstKeys is how long the first publication waits for keys: after a restart
// agents have those that were known before, and would be told of none.
const firstKeys = 5 * time.Second

// settle tells whether what is held can be published: each issuer has been asked
// once, or the time for it is over. The caller holds mu.
func (o *objects) settle() bool {
	waiting := func(s jwks.State) bool { return s.Success.IsZero() && s.Failures == 0 }
	o.settled = o.settled || time.Since(o.first) > firstKeys || !slices.ContainsFunc(o.keeper.States(), waiting)
	return o.settled
}

// unsettled tells whether a publication is still to come that waits for keys.
func (o *objects) unsettled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known && !o.settled
}

// uses are the addresses that are asked, on the account of their namespace. One
// that several name is on that of the one that names the fewest: nobody is held
// up by another who names it too.
func uses(requests []rbac.RequestAuthentication) map[string]jwks.Use {
	type owned struct{ owner, uri string }
	seen, count := map[owned]time.Duration{}, map[string]int{}
	for _, r := range requests {
		for _, rule := range r.Rules {
			if rule.KeysURI == "" || rule.Keys != "" {
				continue
			}
			at := owned{r.Namespace, rule.KeysURI}
			if _, ok := seen[at]; !ok {
				count[r.Namespace]++
			}
			seen[at] = max(seen[at], rule.Timeout)
		}
	}
	uris := map[string]jwks.Use{}
	for at, timeout := range seen {
		use, ok := uris[at.uri]
		if !ok || cmp.Or(cmp.Compare(count[at.owner], count[use.Owner]), cmp.Compare(at.owner, use.Owner)) < 0 {
			use.Owner = at.owner
		}
		use.Timeout = max(use.Timeout, timeout)
		uris[at.uri] = use
	}
	return uris
}

// publish hands on what is held, with the keys that are known now. An issuer
// whose keys are not known keeps none, and its tokens are rejected. Until the
// first keys have been waited for it does nothing.
func (o *objects) publish(to func([]rbac.Policy, []rbac.RequestAuthentication) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.known || !o.settle() {
		return nil
	}
	requests := make([]rbac.RequestAuthentication, len(o.requests))
	for i, r := range o.requests {
		rules := make([]rbac.TokenRule, len(r.Rules))
		for j, rule := range r.Rules {
			if rule.KeysURI != "" && rule.Keys == "" {
				rule.Keys = o.keeper.Keys(rule.KeysURI)
			}
			rules[j] = rule
		}
		requests[i] = fitting(r, rules)
	}
	return to(o.policies, requests)
}

// fitting is r with these rules, or as it was read, without the keys that were
// fetched, where an agent would not take it with them: it would refuse all that
// is for its workloads, and go on with what it had.
func fitting(r rbac.RequestAuthentication, rules []rbac.TokenRule) rbac.RequestAuthentication {
	length := 0
	for _, rule := range rules {
		length += len(rule.Keys)
	}
	with := r
	with.Rules = rules
	if length > parse.MaxWire/4 && len(parse.RequestJSON(with)) > parse.MaxWire {
		return r
	}
	return with
}

// loaded takes all objects, and what was wrong with their sources.
func (r *run) loaded(o access.Objects, bad error) {
	all, unresolved := access.Resolve(o, r.config.RootNamespace)
	r.report(all, errors.Join(bad, unresolved))
	r.objects.take(all, o.Requests)
	r.publish()
}

func (r *run) publish() {
	if err := r.objects.publish(r.policies.Set); err != nil {
		r.deps.Log.Error("some workloads keep the policies that they had", "err", cut(err.Error()))
	}
}

// gatherKeys is how long changes of keys are gathered.
const gatherKeys = time.Second

// keepKeys fetches key sets until ctx ends, and publishes those that change.
func (r *run) keepKeys(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error {
		if err := r.objects.keeper.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	group.Go(func() error {
		tick := time.NewTicker(gatherKeys / 4)
		defer tick.Stop()
		for {
			select {
			case <-r.objects.keeper.Changed():
			case <-tick.C:
				if r.objects.unsettled() {
					r.publish()
				}
				continue
			case <-ctx.Done():
				return nil
			}
			select { // an issuer of many, whose keys are always others, is no reason to do nothing else
			case <-time.After(gatherKeys):
				r.publish()
			case <-ctx.Done():
				return nil
			}
		}
	})
}
