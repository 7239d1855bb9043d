package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/jwks"
	"github.com/istio-auth/istio-auth/rbac/token"
)

// askFlags are the request that explain is about.
type askFlags struct {
	namespace, from, method, target, host, claims, sni string
	source, remote, destination                        string
	labels                                             map[string]string
	headers                                            []string
	tcp, plaintext                                     bool
}

func (a *askFlags) add(command *cobra.Command) {
	f := command.Flags()
	f.StringVarP(&a.namespace, "namespace", "n", "default", "the workload's namespace")
	f.StringToStringVarP(&a.labels, "labels", "l", nil, "the workload's labels, as app=web,version=v1")
	f.BoolVar(&a.plaintext, "plaintext", false, "the workload also listens to peers without a certificate")
	f.StringVar(&a.from, "from", "", "the peer's SPIFFE ID; empty: it has no certificate")
	f.BoolVar(&a.tcp, "tcp", false, "a TCP connection, of which nothing is known but its ends")
	f.StringVar(&a.method, "method", "GET", "the HTTP method")
	f.StringVar(&a.target, "path", "/", "the request's path, as the client sends it")
	f.StringVar(&a.host, "host", "example.test", "the authority")
	f.StringArrayVar(&a.headers, "header", nil, "a header line, as \"x-role: admin\"; may be given again")
	f.StringVar(&a.claims, "claims", "", "the payload of the end user's token, as JSON; its signature and times are taken to be good")
	f.StringVar(&a.source, "source-ip", "192.0.2.1", "the address at the other end of the connection")
	f.StringVar(&a.remote, "remote-ip", "", "the client's address as trusted proxies tell it; empty: --source-ip")
	f.StringVar(&a.destination, "destination", "198.51.100.1:8080", "our end of the connection")
	f.StringVar(&a.sni, "sni", "", "the TLS server name that the client asked for")
	for _, name := range []string{"namespace", "labels", "from", "path", "host", "header", "claims", "source-ip", "remote-ip", "destination", "sni"} {
		completeWith(command, name)
	}
	completeWith(command, "method", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
	for _, name := range []string{"method", "path", "host", "header", "claims"} {
		command.MarkFlagsMutuallyExclusive("tcp", name)
	}
}

// request is what policy sees. The error is [rbac.ErrNotCanonical] where the
// sidecar answers 400 before policy is asked.
func (a *askFlags) request() (rbac.Request, error) {
	r := rbac.Request{Protocol: rbac.HTTP, Method: a.method, Host: a.host, ServerName: a.sni, Headers: map[string][]string{}}
	if a.tcp {
		r.Protocol = rbac.TCP
	}
	var err error
	if a.from != "" {
		if r.Peer.ID, err = spiffeid.FromString("spiffe://" + strings.TrimPrefix(a.from, "spiffe://")); err != nil {
			return r, fmt.Errorf("--from: %w", err)
		}
	}
	if r.Source, err = netip.ParseAddr(a.source); err != nil {
		return r, fmt.Errorf("--source-ip: %w", err)
	}
	if r.Remote = r.Source; a.remote != "" {
		if r.Remote, err = netip.ParseAddr(a.remote); err != nil {
			return r, fmt.Errorf("--remote-ip: %w", err)
		}
	}
	if r.Destination, err = netip.ParseAddrPort(a.destination); err != nil {
		return r, fmt.Errorf("--destination: %w", err)
	}
	for _, line := range a.headers {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.ToLower(strings.TrimSpace(name)); !ok || name == "" {
			return r, fmt.Errorf("--header %q: want \"name: value\"", line)
		}
		if name == "host" {
			return r, fmt.Errorf("--header %q: the host is --host", line)
		}
		r.Headers[name] = append(r.Headers[name], strings.TrimSpace(value))
	}
	if a.claims != "" {
		if r.Token, err = tokenOf(a.claims); err != nil {
			return r, fmt.Errorf("--claims: %w", err)
		}
	}
	if !a.tcp {
		r.Path, err = rbac.CanonicalPath(a.target)
	}
	return r, err
}

// tokenOf is one with these claims. "scope" and "permission" are split at blanks,
// as of [rbac.Token].
func tokenOf(claims string) (*rbac.Token, error) {
	t := &rbac.Token{}
	if err := json.Unmarshal([]byte(claims), &t.Claims); err != nil {
		return nil, err
	}
	rbac.SplitClaims(t.Claims)
	return t, nil
}

func policyExplainCommand() *cobra.Command {
	var mesh meshFlags
	var ask askFlags
	var output, expect string
	command := &cobra.Command{
		Use:   "explain FILE|FOLDER|-...",
		Short: "Say what policies decide about a request, and why",
		Long: `explain decides one request by the policies in files, as every sidecar would: the
verdict, the rule and the fields that decided, and for a denial the nearest rule
that would have allowed it and what was missing.

A request comes from --from; without it the peer has no certificate, and is
refused unless the workload listens to such peers (--plaintext).

It exits 0 whatever the verdict, or, with --expect, 1 if it is another.`,
		Example: "  istio-auth policy explain policies/ -n shop -l app=web --from cluster.local/ns/front/sa/web --path /admin\n" +
			"  istio-auth policy explain policies/ -n shop --from cluster.local/ns/a/sa/b --method POST --expect denied",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: policyFiles,
		RunE: func(cmd *cobra.Command, paths []string) error {
			answer, err := explainPolicies(&mesh, &ask, paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(cmd, answer)
			} else {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), answer)
			}
			if got := map[bool]string{true: "allowed", false: "denied"}[answer.Allowed]; err == nil && expect != "" && got != expect {
				return fmt.Errorf("%s, expected %s", got, expect)
			}
			return err
		},
	}
	mesh.add(command)
	ask.add(command)
	addOutput(command, &output)
	addChoice(command, "expect", "allowed or denied: fail if it is not", choice{&expect, []string{"allowed", "denied"}})
	return command
}

// An answer is an explanation, and what it would be with the policies of a dry
// run.
type answer struct {
	eval.Explanation
	// Object is what the rule that decided is of, where its author calls it
	// otherwise than the policy that it has become.
	Object string `json:"object,omitempty"`
	// DryRun is the decision if policies of a dry run were in force; nil where
	// none applies.
	DryRun *eval.Explanation `json:"dryRun,omitempty"`
	// Notes are what else to know.
	Notes []string `json:"notes,omitempty"`
}

// Refusals before any policy is asked, besides those of [eval.Reason].
const (
	notCanonical eval.Reason = "not-canonical" // the path is answered with 400
	tokenRefused eval.Reason = "token-refused" // the token is answered with 401, or 403
)

// String is for people.
func (a answer) String() string {
	text := a.Explanation.String()
	if a.Object != "" {
		text += fmt.Sprintf("\n  %s is %s", a.Policy, a.Object)
	}
	for _, note := range a.Notes {
		text += "\n  note: " + note
	}
	if a.DryRun != nil {
		text += "\nwith the policies of the dry run " + a.DryRun.String()
	}
	return text
}

func explainPolicies(mesh *meshFlags, ask *askFlags, paths []string, stdin io.Reader) (answer, error) {
	target, err := mesh.target()
	if err != nil {
		return answer{}, err
	}
	if !rbac.IsNamespace(ask.namespace) {
		return answer{}, fmt.Errorf("--namespace %q: want a namespace", ask.namespace)
	}
	target.Namespace, target.Labels, target.Plaintext = ask.namespace, ask.labels, ask.plaintext
	objects, err := readPolicies(paths, stdin)
	if err != nil {
		return answer{}, err
	}
	request, err := ask.request()
	if errors.Is(err, rbac.ErrNotCanonical) {
		return refusedBefore(notCanonical, fmt.Sprintf("the sidecar answers %q with 400: applications differ in what path that is", ask.target)), nil
	}
	if err != nil {
		return answer{}, err
	}
	resolved, unresolved := access.Resolve(objects, mesh.root)
	set := rbac.Select(resolved, target).WithTokens(objects.Requests, target)
	var a answer
	for _, err := range each(unresolved) {
		a.Notes = append(a.Notes, err.Error())
	}
	if path, _, _ := strings.Cut(ask.target, "?"); request.Protocol == rbac.HTTP && path != request.Path {
		a.Notes = append(a.Notes, fmt.Sprintf("policy and application see the path %q", request.Path))
	}
	switch problem := tokenProblem(set.Tokens(), request.Token); {
	case request.Token == nil:
	case len(set.Tokens()) == 0:
		a.Notes = append(a.Notes, "no RequestAuthentication applies to this workload, so that nobody looks at the token")
		request.Token = nil
	case problem != "":
		return refusedBefore(tokenRefused, problem), nil
	case tooLong(request.Token, time.Now()):
		a.Notes = append(a.Notes, fmt.Sprintf("a sidecar answers this token with 401: its exp is more than %v away", jwks.TokenLife))
	}
	a.Explanation = eval.Explain(set, request)
	if set.Len() == 0 && len(resolved) > 0 {
		a.Notes = append(a.Notes, fmt.Sprintf("none of the policies that were read (%d) applies to a workload of namespace %s with %s", len(resolved), ask.namespace, labelText(ask.labels)))
	}
	if a.Reason == eval.NoIdentity {
		a.Notes = append(a.Notes, whyNobody(set.Domains(), request.Peer))
	}
	if object := authored(policyKind + " " + a.Policy); object != policyKind+" "+a.Policy {
		a.Object = object
	}
	if trial, ok := set.Trial(); ok {
		dry := eval.Explain(trial, request)
		a.DryRun = &dry
	}
	return a, nil
}

func labelText(labels map[string]string) string {
	if len(labels) == 0 {
		return "no labels (see --labels)"
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return "labels " + strings.Join(pairs, ",")
}

// whyNobody says why a peer has no identity.
func whyNobody(domains rbac.Domains, peer rbac.Peer) string {
	switch td := peer.ID.TrustDomain(); {
	case peer.ID.IsZero():
		return "the peer has no certificate (see --from), and the workload does not listen to such peers (see --plaintext)"
	case !slices.Contains(domains.Accepted(), td):
		return fmt.Sprintf("the trust domain %s is not accepted (see --trust-domain, --alias, --foreign)", td)
	}
	return fmt.Sprintf("%s is no workload: want spiffe://<trust domain>/ns/<namespace>/sa/<service account>", peer.ID)
}

func refusedBefore(reason eval.Reason, note string) answer {
	return answer{Explanation: eval.Explanation{Verdict: eval.Verdict{Reason: reason}}, Notes: []string{note}}
}

// tooLong tells that a token says itself that it is good for too long.
func tooLong(t *rbac.Token, now time.Time) bool {
	expiry, ok := t.Claims["exp"].(float64)
	return ok && expiry > float64(now.Add(jwks.TokenLife+token.Skew).Unix())
}

// tokenProblem says why no rule takes a token, as far as its claims tell; empty:
// one does.
func tokenProblem(rules []rbac.TokenRule, t *rbac.Token) string {
	issuer := t.Texts("iss")
	problem := "no RequestAuthentication of this workload takes tokens of this issuer: 401"
	for _, r := range rules {
		if !slices.Contains(issuer, r.Issuer) {
			continue
		}
		if len(r.Audiences) == 0 || slices.ContainsFunc(t.Texts("aud"), func(a string) bool { return slices.Contains(r.Audiences, a) }) {
			return ""
		}
		problem = fmt.Sprintf("the token is for none of the audiences %q: 403", r.Audiences)
	}
	return problem
}
